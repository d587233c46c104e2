"""One run from start to summary: the order in which everything comes up.

    processes -> cache -> mesh -> data -> program -> run directory -> compile -> state -> loop
    -> summary

Resume order of the state: the newest checkpoint of this run that is whole; else the parameters of
`train.init_from`; else the seed alone.
"""

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from scaling import data, parallel
from scaling.experiment import Experiment
from scaling.parallel.axes import check_devices
from scaling.track import compile_cache, grade, memory, provenance
from scaling.track.progress import ProgressReport
from scaling.track.recompile import CompileLog
from scaling.train.bad_steps import DivergedError
from scaling.train.evaluate import compile_evaluations, evaluator, schedule
from scaling.train.loop import Loop, Outcome
from scaling.train.program import Program, build_program, timed_compile
from scaling.train.record import Record, digest
from scaling.train.signals import EXIT_PREEMPTED, StopRequest
from scaling.train.state import TrainState

# Longest that the first process to have compiled waits for the last.
MEETING_SECONDS = 3600.0


class PlatformError(RuntimeError):
    """The config asks for an accelerator that JAX did not find."""


def run(
    config: Experiment, workdir: pathlib.Path, processes: parallel.Processes, stop: StopRequest
) -> int:
    """Trains to the end, or on from where an earlier start stopped.

    Args:
      config: resolved and validated.
      workdir: the run directory.
      processes: the started processes of this run; one alone is fine.
      stop: raised by a signal.

    Returns:
      The exit code: 0 completed, 75 preempted, `train.diverged_exit` diverged.

    Raises:
      Whatever went wrong, with a message for people; `main` turns it into exit code 1.
    """
    with Run(config, workdir, processes, stop) as job:
        return job.execute()


def check_platform(wanted: str) -> None:
    """Ends the run when JAX came up on something else than the config asks for.

    Raises:
      PlatformError: it did.
    """
    found = jax.default_backend()
    if wanted not in ("auto", found):
        raise PlatformError(
            f"platform={wanted} but JAX came up on {found} ({jax.devices()[0].device_kind}). "
            f"Install the extra for it (pip install 'scaling[{wanted}]'), see what "
            "`python -m scaling.doctor` says, or set --config.platform=auto"
        )


class Run:
    """The parts of one run while it lives; `execute` puts them to work.

    Holds what must be closed again, in an `ExitStack`, so that whatever fails, the stream is
    durable, the lock is given back and the terminal is in order.
    """

    def __init__(
        self,
        config: Experiment,
        workdir: pathlib.Path,
        processes: parallel.Processes,
        stop: StopRequest,
    ) -> None:
        self.config, self.workdir, self.stop = config, workdir, stop
        self.processes, self.main = processes, processes.process_id == 0
        self.stack = contextlib.ExitStack()
        self.compile_log = self.stack.enter_context(CompileLog())

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def execute(self) -> int:
        """Runs to an end of some kind and writes the summary."""
        self._open()
        finished = self.record.finished()
        if finished.get("status") == "completed":
            self._say(f"already completed: {self.workdir / 'summary.json'}\n" + digest(finished))
            return 0
        with self.record.goodput.spend("init"):
            info, self.data = self._data()
            self.program = self._program(info)
            self.record.keep_data(self.data)
            self.jobs = schedule(self.config, self.program.task, self.data.evals)
        compiled_step, compiled_evals = self._compile()
        # Collectives give up on a partner after a while (Gloo: 30 s), and processes do not compile
        # equally fast; whoever dies meanwhile is noticed by the roster.
        self.processes.decide("compiled", None, lambda _: None, timeout=MEETING_SECONDS)
        with self.record.goodput.spend("init"):
            self.record.open_checkpoints(self.program.task)
            step, state = self._newest(self.config.train.steps + 1)
            self.record.open_stream(step)
        outcome, trouble = self._loop(step, state, compiled_step, compiled_evals)
        return self._finish(outcome, trouble)

    def _open(self) -> None:
        """Run directory, ledger, progress: what the rest reports to."""
        config, track = self.config, self.config.track
        notes = [compile_cache.enable()] if track.compile_cache else []
        check_platform(config.platform)
        start = provenance.collect(devices=jax.devices())
        self.record = self.stack.enter_context(
            Record(config, self.workdir, start, self._say, self.main)
        )
        self.progress = self.stack.enter_context(
            ProgressReport(
                config.train.steps, "", track.progress, track.progress_seconds, self.main
            )
        )
        for note in filter(None, [*notes, *self.record.notes]):
            self._say(note)
        self._say(
            f"{config.name} in {self.workdir}: {jax.device_count()} x "
            f"{jax.devices()[0].device_kind} ({jax.default_backend()}), run {self.record.run_id}"
        )

    def _data(self) -> tuple[data.DataInfo, data.Data]:
        self._say("preparing data")
        built = data.build(self.config)
        sizes = ", ".join(f"{v:,} {k}" for k, v in built.sizes.items())
        self._say(f"data: {sizes}")
        return built.info, built

    def _program(self, info: data.DataInfo) -> Program:
        mesh = parallel.make_mesh(self.config.mesh)
        check_devices(self.config, mesh.size)
        program = build_program(self.config, info, mesh)
        self.progress.unit = program.task.unit
        sizes = {axis: size for axis, size in mesh.shape.items() if size > 1}
        self._say(
            f"model: {program.task.params.total:,} parameters "
            f"({program.task.params.non_embedding:,} non-embedding), "
            f"{program.task.flops.exact:.3g} FLOPs a {program.task.unit[:-1]}; mesh {sizes or 1}"
        )
        if mesh.size > 1 and program.audit:
            self._say(parallel.format_rows(list(program.audit)))
        return program

    def _compile(self) -> tuple[Any, dict[str, Any]]:
        """Compiles everything ahead of time: a batch of another shape is then an error."""
        with self.record.goodput.spend("compile"):
            step, seconds = timed_compile(self.program.lower_step())
            evaluations, more = compile_evaluations(self.program, self.jobs)
        self.step_bytes = memory.program_bytes(step)
        cached = self.compile_log.count("step", cached=True) > 0
        self._say(f"compiled in {seconds + more:.1f} s" + (" (from the cache)" if cached else ""))
        return step, evaluations

    def _newest(self, before: int) -> tuple[int, TrainState]:
        """The state to go on from: of the newest checkpoint earlier than `before`."""
        found = self.record.newest(self.program.abstract, before)
        return found or (0, self.record.first(self.program.fresh_state()))

    def _restore_before(self, step: int) -> tuple[int, TrainState]:
        """Rolls back: checkpoint, stream and ledger return to before a bad step."""
        found, state = self._newest(step)
        self.record.rewind(found)
        return found, state

    def _loop(
        self, step: int, state: TrainState, compiled_step: Any, compiled_evals: Mapping[str, Any]
    ) -> tuple[Outcome | None, DivergedError | None]:
        task, devices = self.program.task, self.program.mesh.devices
        books = self.record.books(step, task, devices, self.data.train, self._log, self.jobs)
        evaluators = {
            job.name: evaluator(self.program, compiled_evals[job.name], job, self.data.artefacts)
            for job in self.jobs
        }
        loop = Loop(
            self.program,
            compiled_step,
            evaluators,
            books,
            self._restore_before,
            self._should_stop,
        )
        self.compile_log.warm()
        try:
            outcome = loop.run(step, state)
        except DivergedError as error:
            return None, error
        self.record.checkpoints.wait()
        return outcome, None

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self.record.tracker.write(step, values)
        # The steps are compiled ahead and refuse other shapes; this is about everything else.
        for text in self.compile_log.late():
            self._say(f"by step {step}: {text}")
        loss = values.get("train/loss", values.get("train/objective"))
        if loss is not None:
            rate = values.get(f"perf/{self.program.task.unit}_per_second")
            self.progress.update(step, loss, rate)
            return
        for name in dict.fromkeys(key.split("/")[0] for key in values):
            mine = {k: v for k, v in values.items() if k.startswith(f"{name}/")}
            shown = ", ".join(f"{k.removeprefix(f'{name}/')} {v:.4g}" for k, v in mine.items())
            self._say(f"step {step} {name}: {shown}")

    def _should_stop(self, step: int) -> bool:
        self.record.checkpoints.check()
        return self.processes.stop_at(step, self.stop.reason is not None)

    def _say(self, text: str) -> None:
        if self.main:
            self.progress.say(text)

    def _finish(self, outcome: Outcome | None, trouble: DivergedError | None) -> int:
        status = outcome.status if outcome else "diverged"
        if trouble:
            self._say(f"diverged: {trouble}")
        summary = self.record.write_summary(
            status,
            outcome.step if outcome else None,
            outcome.eval if outcome else {},
            self.program.task,
            self.data.info,
            self.step_bytes,
            compiles=self.compile_log.count(cached=False),
            **({"error": str(trouble)} if trouble else {}),
        )
        self._say(digest(summary))
        if "grade" in summary:
            self._say(grade.describe(summary["grade"]))
        if status == "preempted":
            self._say("stopped before the end; the same command goes on from here")
            return EXIT_PREEMPTED
        return self.config.train.diverged_exit if trouble else 0
