"""Many runs in one program: members that differ in numbers alone train together.

    configs, workdirs -> data -> program -> run directories -> states -> loop -> summaries

What may differ is what the compiled step takes as arrays (every float of section `optim`, see
`train.population_key`), the seeds, the scale of the initial parameters, and settings without effect on
the result. Each member leaves its own ordinary run directory; alone or in a population, a run goes
on from what either left.

In a member's directory `seconds` and `perf/...` are wall time, which the members share: a
population of 16 spends each second once, and 16 members tell of it. `summary.json` says so under
`population`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from scaling import configs, data
from scaling.experiment import Experiment
from scaling.track import compile_cache, memory, provenance
from scaling.track.lock import LockedError
from scaling.track.progress import ProgressReport
from scaling.track.recompile import CompileLog
from scaling.train import population_key as keys
from scaling.train.population_loop import Member, PopulationLoop, Watch
from scaling.train.population_program import Mode, PopulationProgram, build_population, one_device
from scaling.train.program import build_functions, key_data
from scaling.train.record import Record, digest
from scaling.train.run import check_platform
from scaling.train.signals import StopRequest
from scaling.train.state import TrainState

PyTree = Any

# Ends that are final: a later start of the population leaves such a member alone.
FINAL = ("completed", "diverged", "pruned")


class PopulationError(ValueError):
    """These runs cannot train together."""


def run_population(
    members: Sequence[Any],
    workdirs: Sequence[pathlib.Path],
    *,
    mode: Mode = "auto",
    stop: StopRequest | None = None,
    watch: Watch | None = None,
) -> list[str]:
    """Trains all members to their ends, each on from where its directory stands.

    Args:
      members: configs, resolved and validated; equal but for what the module's docstring lists.
      workdirs: a run directory for each.
      mode: how to run the members, see `population_program`; `auto` is `map` on CPU and `vmap` on
        accelerators.
      stop: raised by a signal: all members save and end as preempted.
      watch: (step, {member: values of its evaluation}) -> the members to end here, as pruned.
        Called after every evaluation but the last, for all that were evaluated.

    Returns:
      How each ended: completed, diverged, preempted, pruned, locked (another process trains in its
      directory), or failed (what went wrong is printed; the others are not disturbed).

    Raises:
      PopulationError: the configs differ in more than they may, or JAX runs in several processes.
      PlatformError: JAX came up on something else than the configs ask for.
    """
    _check(members, workdirs)
    with Population(members, workdirs, mode, stop, watch) as population:
        return population.execute()


def _check(members: Sequence[Any], workdirs: Sequence[pathlib.Path]) -> None:
    if not members or len(members) != len(workdirs):
        raise PopulationError(f"{len(members)} configs and {len(workdirs)} workdirs: give as many")
    if len({pathlib.Path(path).absolute() for path in workdirs}) != len(workdirs):
        raise PopulationError("two members have the same workdir: give each its own")
    if jax.process_count() > 1:
        raise PopulationError(
            f"a population runs in one process, and JAX has {jax.process_count()}: start it on one "
            "host, or run its members one by one"
        )
    first = keys.population_key(members[0])
    for i, other in enumerate(members):
        if keys.population_key(other) != first:
            found = configs.diff(keys.common(members[0]), keys.common(other))
            raise PopulationError(
                f"members 0 and {i} differ in more than numbers of the step:\n"
                + configs.format_differences(found, "member 0", f"member {i}")
                + "\nRun them in populations of their own."
            )


@dataclasses.dataclass
class _Opened:
    """A member whose directory is open."""

    index: int
    config: Experiment
    record: Record


class Population:
    """The parts of a population while it lives."""

    def __init__(
        self,
        members: Sequence[Any],
        workdirs: Sequence[pathlib.Path],
        mode: Mode,
        stop: StopRequest | None,
        watch: Watch | None,
    ) -> None:
        self.configs, self.mode, self.stop, self.watch = members, mode, stop, watch
        self.workdirs = [pathlib.Path(path).absolute() for path in workdirs]
        self.statuses = ["failed"] * len(members)
        self.stack = contextlib.ExitStack()
        self.compile_log = self.stack.enter_context(CompileLog())
        track, steps = members[0].track, max(config.train.steps for config in members)
        self.progress = self.stack.enter_context(
            ProgressReport(steps, "", track.progress, track.progress_seconds)
        )

    def __enter__(self) -> "Population":
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def execute(self) -> list[str]:
        """Runs all members to an end of some kind; returns the statuses."""
        if self.configs[0].track.compile_cache:
            compile_cache.enable()
        check_platform(self.configs[0].platform)
        opened = self._open()
        if not opened:
            return self.statuses
        with self._spend("init", opened):
            self._load(opened)
        with self._spend("compile", opened):
            self.program = self._compile(opened)
        with self._spend("init", opened):
            members, states = self._members(opened)
        self.members = {member.index: member for member in members}
        if members:
            self.compile_log.warm()
            self._loop(members).run(states)
        for member in members:
            self._finish(member)
        return self.statuses

    def _open(self) -> list[_Opened]:
        """The directories of the members that have not ended, open."""
        opened: list[_Opened] = []
        start = provenance.collect(devices=jax.devices())
        for index, (config, workdir) in enumerate(zip(self.configs, self.workdirs, strict=True)):
            with self._alone(index):
                record = Record(config, workdir, start, self._teller(index))
                self.stack.callback(self._close, index, record)
                found = record.finished().get("status")
                if found in FINAL:
                    self._say(index, f"already {found}")
                    self.statuses[index] = found
                    record.close()
                else:
                    opened.append(_Opened(index, config, record))
        return opened

    def _load(self, opened: Sequence[_Opened]) -> None:
        """One `Data` for every distinct order of the training data."""
        orders: dict[int, int] = {}
        self.data: list[data.Data] = []
        self.source: dict[int, int] = {}
        for one in opened:
            seed = keys.data_seed(one.config)
            if seed not in orders:
                orders[seed] = len(self.data)
                self.data.append(data.build(one.config))
            self.source[one.index] = orders[seed]

    def _compile(self, opened: Sequence[_Opened]) -> PopulationProgram:
        program, self.jobs = build_population(
            opened[0].config, self.data[0], len(opened), len(self.data), self.mode
        )
        task = program.functions.task
        self.progress.unit = task.unit
        self.progress.say(
            f"population of {len(opened)} ({program.mode}) on {program.mesh.size} x "
            f"{jax.devices()[0].device_kind}: {task.params.total:,} parameters each, "
            f"{len(self.data)} orders of the data; compiled in "
            f"{self.compile_log.seconds('population'):.1f} s"
        )
        return program

    def _members(self, opened: Sequence[_Opened]) -> tuple[list[Member], list[PyTree]]:
        """Members at the steps where their directories stand, and their states on the host."""
        members: list[Member] = []
        states: list[PyTree] = []
        self.initials: dict[str, Any] = {}
        for one in opened:
            with self._alone(one.index):
                one.record.keep_data(self.data[self.source[one.index]])
                one.record.open_checkpoints(self.program.functions.task)
                found = one.record.newest(self.program.abstract, one.config.train.steps + 1)
                step, state = found or (0, self._fresh(one.config, one.record))
                one.record.open_stream(step)
                books = one.record.books(
                    step,
                    self.program.functions.task,
                    self.program.mesh.devices,
                    self.data[self.source[one.index]].train,
                    self._logger(one.index, one.record),
                    self.jobs,
                )
                source = self.source[one.index]
                members.append(Member(one.index, len(members), source, one.record, books, step))
                states.append(state)
        return members, states

    def _fresh(self, config: Experiment, record: Record) -> TrainState:
        """The state at step 0, as the member alone would have it; on the host."""
        key = repr(keys.initial(config))
        if key not in self.initials:
            # What the initial values depend on besides the seed is compiled in.
            alone, mesh = one_device(config, jax.devices()[0])
            functions = build_functions(alone, self.data[0].info, mesh)
            self.initials[key] = jax.jit(functions.init)
        fresh = jax.device_get(self.initials[key](key_data(config.seed)))
        return record.first(fresh)

    def _restore(self, member: Member, step: int) -> tuple[int, TrainState]:
        """Rolls a member back: checkpoint, stream and ledger return to before a bad step."""
        with jax.transfer_guard("allow"):
            config, record = self.configs[member.index], member.record
            found = record.newest(self.program.abstract, step)
            at, state = found or (0, self._fresh(config, record))
        record.rewind(at)
        return at, state

    def _loop(self, members: Sequence[Member]) -> PopulationLoop:
        values = [self._hparams(self.configs[member.index]) for member in members]
        hparams = {name: [one[name] for one in values] for name in values[0]}
        return PopulationLoop(
            self.program,
            self.data,
            self.jobs,
            members,
            hparams,
            self._restore,
            lambda: self.stop is not None and self.stop.reason is not None,
            self.watch,
        )

    def _hparams(self, config: Experiment) -> dict[str, float]:
        """A member's values of the step's run-time numbers."""
        found = keys.numbers(config)
        return {name: found[name] for name in self.program.functions.hparams}

    def _finish(self, member: Member) -> None:
        """Waits for a member's checkpoint, writes its summary, closes its directory."""
        with self._alone(member.index):
            if member.status == "diverged":
                self._say(member.index, f"diverged: {member.error}")
            if member.status != "failed":
                member.record.checkpoints.wait()
                summary = member.record.write_summary(
                    member.status or "failed",
                    None if member.status == "diverged" else member.step,
                    {} if member.status == "diverged" else member.books.evals,
                    self.program.functions.task,
                    self.data[member.source].info,
                    memory.program_bytes(self.program.step),
                    compiles=self.compile_log.count(cached=False),
                    population={"members": len(self.members), "mode": self.program.mode},
                    **({"error": member.error} if member.error else {}),
                )
                self._say(member.index, digest(summary))
            else:
                self._say(member.index, f"failed: {member.error}")
            self.statuses[member.index] = member.status or "failed"
            member.record.close()

    # --- one member's troubles stay its own --------------------------------------------------

    @contextlib.contextmanager
    def _alone(self, index: int) -> Any:
        """An error inside fails this member and is told."""
        try:
            yield
        except LockedError as error:
            self.statuses[index] = "locked"
            self._say(index, str(error))
        except Exception as error:
            self.statuses[index] = "failed"
            self._say(index, f"failed: {type(error).__name__}: {error}")

    def _close(self, index: int, record: Record) -> None:
        with self._alone(index):
            record.close()

    @contextlib.contextmanager
    def _spend(self, bucket: str, opened: Sequence[_Opened]) -> Any:
        with contextlib.ExitStack() as stack:
            for one in opened:
                stack.enter_context(one.record.goodput.spend(bucket))
            yield

    def _logger(self, index: int, record: Record) -> Any:
        def log(step: int, values: Mapping[str, Any]) -> None:
            record.tracker.write(step, values)
            for text in self.compile_log.late():
                self._say(index, f"by step {step}: {text}")
            loss = values.get("train/loss", values.get("train/objective"))
            if loss is not None and index == min(self.members):
                rate = values.get(f"perf/{self.program.functions.task.unit}_per_second")
                self.progress.update(step, loss, rate)

        return log

    def _teller(self, index: int) -> Any:
        return lambda text: self._say(index, text)

    def _say(self, index: int, text: str) -> None:
        self.progress.say(f"[{index}: {self.workdirs[index].name}] {text}")
