"""Runs from start to summary: the order in which everything comes up.

    processes -> cache -> run directory -> data -> program -> compile -> state -> loop -> summary

Resume order of a state: the newest checkpoint of this run that is whole; else the variables of
`train.init_from`; else the seed alone.
"""

import contextlib
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from scaling import data, parallel
from scaling.experiment import Experiment
from scaling.parallel.axes import check_devices
from scaling.track import allocator, compile_cache, files, grade, memory, provenance
from scaling.track.lock import LockedError
from scaling.track.progress import ProgressReport
from scaling.track.recompile import CompileLog
from scaling.track.run_dir import read_run
from scaling.train import population_key as keys
from scaling.train.compiled import Compiled, compile_sharded
from scaling.train.loop import Loop, Watch
from scaling.train.member import Member
from scaling.train.program import build_program
from scaling.train.record import Record, digest, spend
from scaling.train.signals import EXIT_PREEMPTED, StopRequest
from scaling.train.stacked import Mode, compile_stacked
from scaling.train.state import TrainState

# Longest that the first process to have compiled waits for the last.
MEETING_SECONDS = 3600.0


class PlatformError(RuntimeError):
    """The config asks for an accelerator that JAX did not find."""


def run(
    config: Experiment, workdir: pathlib.Path, processes: parallel.Processes, stop: StopRequest
) -> int:
    """Trains to the end, or on from where an earlier start stopped.

    Returns:
      The exit code: 0 completed, 75 preempted, `train.diverged_exit` diverged.

    Raises:
      Whatever went wrong, with a message for people; `main` turns it into exit code 1.
    """
    with Training([config], [workdir], stop, processes=processes) as training:
        (status,) = training.execute()
    return {"preempted": EXIT_PREEMPTED, "diverged": config.train.diverged_exit}.get(status, 0)


def check_platform(wanted: str) -> None:
    """Ends the run (PlatformError) when JAX came up on something else than the config asks for."""
    backend = jax.default_backend()
    if wanted not in ("auto", backend):
        raise PlatformError(
            f"platform={wanted} but JAX came up on {backend} ({jax.devices()[0].device_kind}). "
            f"Install the extra for it (pip install 'scaling[{wanted}]'), see what "
            "`python -m scaling.doctor` says, or set --config.platform=auto"
        )


class Training(files.Closing):
    """One run over all devices, or several that train together, while they live.

    Holds what must be closed again, in an `ExitStack`, so that whatever fails, the streams are
    durable, the locks are given back and the terminal is in order.
    """

    def __init__(
        self,
        configs: Sequence[Experiment],
        workdirs: Sequence[pathlib.Path],
        stop: StopRequest | None,
        *,
        processes: parallel.Processes | None = None,
        mode: Mode | None = None,
        watch: Watch | None = None,
    ) -> None:
        """One workdir for each config.

        Args:
          processes: of this run; None is this one alone.
          mode: how a population runs its members; None is a single run, whose errors are raised.
          watch: prunes members of a population.
        """
        self.configs, self.stop, self.watch = configs, stop, watch
        self.workdirs = [pathlib.Path(path).absolute() for path in workdirs]
        self.processes, self.mode = processes or parallel.Processes(), mode
        self.main = self.processes.process_id == 0
        self.statuses = ["failed"] * len(configs)
        self.stack = contextlib.ExitStack()
        self.compile_log = self.stack.enter_context(CompileLog())
        track, steps = configs[0].track, max(config.train.steps for config in configs)
        self.progress = self.stack.enter_context(
            ProgressReport(steps, "", track.progress, track.progress_seconds, self.main)
        )

    def close(self) -> None:
        """Closes what is open."""
        self.stack.close()

    def execute(self) -> list[str]:
        """Trains every run to an end of some kind and writes the summaries; how each ended."""
        track = self.configs[0].track
        if track.compile_cache and (note := compile_cache.enable()):
            self._say(0, note)
        allocator.run_inline()
        check_platform(self.configs[0].platform)
        opened = self._open()
        if not opened:
            return self.statuses
        records = list(opened.values())
        with spend("init", records):
            self._load(opened)
        with spend("compile", records):
            self.program = self._compile(records)
        self.progress.unit = self.program.task.unit
        # Collectives give up on a partner after a while (Gloo: 30 s), and processes do not compile
        # equally fast; one that dies meanwhile is noticed by the roster.
        self.processes.decide("compiled", None, lambda _: None, timeout=MEETING_SECONDS)
        with spend("init", records):
            members, states = self._members(opened)
        if members:
            self.shown = members[0].index
            self.compile_log.warm()
            loop = Loop(
                self.program, self.data, members, self._restore, self._should_stop, self.watch
            )
            loop.run(states)
        for member in members:
            with self._alone(member.index):
                self._finish(member, len(members))
        return self.statuses

    # --- before the loop ---------------------------------------------------------------------

    def _open(self) -> dict[int, Record]:
        """The directories of the runs that have not ended, open, by the number of the run."""
        opened: dict[int, Record] = {}
        start = provenance.collect(devices=jax.devices())
        # A population is started again for the others: a member that diverged stays where it is.
        final = ("completed",) if self.mode is None else ("completed", "diverged", "pruned")
        for index, (config, workdir) in enumerate(zip(self.configs, self.workdirs, strict=True)):
            say = functools.partial(self._say, index)
            with self._alone(index):
                record = Record(config, workdir, start, say, self.main)
                self.stack.callback(self._close, index, record)
                if self.mode is None:
                    say(
                        f"{config.name} in {workdir}: {jax.device_count()} x "
                        f"{jax.devices()[0].device_kind} ({jax.default_backend()}), "
                        f"run {record.run_id}"
                    )
                finished = read_run(workdir).summary  # of an earlier start
                if finished.get("status") in final:
                    say(f"already {finished['status']}: {workdir / 'summary.json'}")
                    if self.mode is None:
                        say(digest(finished))
                    self.statuses[index] = finished["status"]
                    record.close()
                else:
                    opened[index] = record
        return opened

    def _load(self, opened: Mapping[int, Record]) -> None:
        """One `Data` for every distinct order of the training data."""
        first, *_ = opened.values()
        first.say("preparing data")
        orders: dict[int, int] = {}
        self.data: list[data.Data] = []
        self.sources: dict[int, int] = {}  # which of the orders a run reads
        for index, record in opened.items():
            seed = keys.data_seed(record.config)
            if seed not in orders:
                orders[seed] = len(self.data)
                self.data.append(data.build(record.config))
            self.sources[index] = orders[seed]
            record.keep_data(self.data[orders[seed]])
        first.say("data: " + ", ".join(f"{v:,} {k}" for k, v in self.data[0].sizes.items()))

    def _compile(self, records: Sequence[Record]) -> Compiled:
        config, say = records[0].config, records[0].say
        if self.mode is not None:
            stacked = compile_stacked(config, self.data[0], len(records), len(self.data), self.mode)
            say(
                f"population of {len(records)} ({stacked.mode}) on {stacked.devices.size} x "
                f"{jax.devices()[0].device_kind}: {stacked.task.params.total:,} parameters each, "
                f"{len(self.data)} orders of the data; compiled in "
                f"{self.compile_log.seconds('population'):.1f} s"
            )
            return stacked
        mesh = parallel.make_mesh(config.mesh)
        check_devices(config, mesh.size)
        program = build_program(config, self.data[0].info, mesh)
        records[0].check_first(program.abstract)
        task, sizes = program.task, {a: size for a, size in mesh.shape.items() if size > 1}
        say(
            f"model: {task.params.total:,} parameters ({task.params.non_embedding:,} "
            f"non-embedding), {task.flops.exact:.3g} FLOPs per {task.unit[:-1]}; mesh {sizes or 1}"
        )
        if mesh.size > 1 and program.audit:
            say(parallel.format_rows(list(program.audit)))
        sharded, seconds = compile_sharded(program, self.data[0])
        cached = self.compile_log.count("step", cached=True) > 0
        say(f"compiled in {seconds:.1f} s" + (" (from the cache)" if cached else ""))
        return sharded

    def _members(self, opened: Mapping[int, Record]) -> tuple[list[Member], list[TrainState]]:
        """The runs at the steps where their directories stand, and their states."""
        members: list[Member] = []
        states: list[TrainState] = []
        for index, record in opened.items():
            with self._alone(index):
                source = self.sources[index]
                record.open_checkpoints(self.program.task)
                step, state = self._newest(record, record.config.train.steps + 1)
                record.open_stream(step)
                slot, loader = len(members), self.data[source].train
                member = Member(
                    index, slot, source, step, record, loader, self.program, self._report
                )
                members.append(member)
                states.append(state)
        return members, states

    def _newest(self, record: Record, before: int) -> tuple[int, TrainState]:
        """The state to go on from: of the newest checkpoint earlier than `before`."""
        newest = record.newest(self.program.template, before)
        return newest or (0, record.first(self.program.fresh(record.config)))

    # --- what the loop calls -----------------------------------------------------------------

    def _restore(self, member: Member, step: int) -> tuple[int, TrainState]:
        """Rolls back: checkpoint, stream and goodput return to before a bad step."""
        at, state = self._newest(member.record, step)
        member.record.rewind(at)
        return at, state

    def _should_stop(self, step: int) -> bool:
        asked = self.stop is not None and self.stop.reason is not None
        return self.processes.stop_at(step, asked)

    def _report(self, index: int, step: int, values: Mapping[str, Any]) -> None:
        """Shows a line of a metrics stream."""
        # The steps are compiled ahead and refuse other shapes; this is about everything else.
        for text in self.compile_log.late():
            self._say(index, f"by step {step}: {text}")
        loss = values.get("train/loss", values.get("train/objective"))
        if loss is not None:
            if index == self.shown:
                rate = values.get(f"perf/{self.program.task.unit}_per_second")
                self.progress.update(step, loss, rate)
            return
        if self.mode is None:
            for name in dict.fromkeys(k.split("/")[0] for k in values if k[:5] != "data/"):
                mine = {k: v for k, v in values.items() if k.startswith(f"{name}/")}
                shown = ", ".join(f"{k.removeprefix(f'{name}/')} {v:.4g}" for k, v in mine.items())
                self._say(index, f"step {step} {name}: {shown}")

    # --- after it ----------------------------------------------------------------------------

    def _finish(self, member: Member, members: int) -> None:
        """Waits for the last checkpoint, writes the summary, closes the directory."""
        status = member.status or "failed"
        if status == "failed" and member.error is not None:
            raise member.error
        if status == "diverged":
            member.record.say(f"diverged: {member.error}")
        member.record.checkpoints.wait()
        population = {"members": members, "mode": getattr(self.program, "mode", None)}
        summary = member.write_summary(
            self.data[member.source].info,
            memory.program_bytes(self.program.compiled_step),
            compiles=self.compile_log.count(cached=False),
            **({} if self.mode is None else {"population": population}),
        )
        member.record.say(digest(summary))
        if "grade" in summary:
            member.record.say(grade.describe(summary["grade"]))
        if status == "preempted":
            member.record.say("stopped before the end; the same command goes on from here")
        self.statuses[member.index] = status
        member.record.close()

    @contextlib.contextmanager
    def _alone(self, index: int) -> Iterator[None]:
        """In a population, an error inside fails this member and is told; the others go on."""
        try:
            yield
        except Exception as error:
            if self.mode is None:
                raise
            locked = isinstance(error, LockedError)
            self.statuses[index] = "locked" if locked else "failed"
            text = str(error) if locked else f"failed: {type(error).__name__}: {error}"
            self._say(index, text)

    def _close(self, index: int, record: Record) -> None:
        with self._alone(index):
            record.close()

    def _say(self, index: int, text: str) -> None:
        if self.main:
            name = "" if self.mode is None else f"[{index}: {self.workdirs[index].name}] "
            self.progress.say(name + text)
