"""One run from start to summary: the order in which everything comes up.

    processes -> cache -> mesh -> data -> program -> run directory -> compile -> state -> loop
    -> summary

Resume order of the state: the newest checkpoint of this run that is whole; else the parameters of
`train.init_from`; else the seed alone.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from scaling import configs, data, parallel
from scaling.configs import rules
from scaling.track import compile_cache, memory, provenance
from scaling.track.goodput import Goodput
from scaling.track.progress import ProgressReport
from scaling.track.recompile import CompileLog
from scaling.track.run_dir import RunDir, read_summary
from scaling.track.stream import read_metrics
from scaling.track.writers import Tracker
from scaling.train.bad_steps import BadSteps, DivergedError
from scaling.train.checkpoints import Checkpoints
from scaling.train.evaluate import EarlyStopping, scorer
from scaling.train.init_from import init_from
from scaling.train.loop import Hooks, Loop, Outcome
from scaling.train.program import Program, build_program, timed_compile
from scaling.train.signals import EXIT_PREEMPTED, StopRequest
from scaling.train.state import TrainState

# Longest that the first process to have compiled waits for the last.
MEETING_SECONDS = 3600.0


class PlatformError(RuntimeError):
    """The config asks for an accelerator that JAX did not find."""


def run(
    config: Any, workdir: pathlib.Path, processes: parallel.Processes, stop: StopRequest
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
        config: Any,
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
        finished = read_summary(self.workdir) or {}
        if finished.get("status") == "completed":
            self._say(f"already completed: {self.workdir / 'summary.json'}\n" + _digest(finished))
            return 0
        with self.goodput.spend("init"):
            info, self.data = self._data()
            self.program = self._program(info)
        compiled_step, compiled_eval = self._compile()
        # Collectives give up on a partner after a while (Gloo: 30 s), and processes do not compile
        # equally fast; whoever dies meanwhile is noticed by the roster.
        self.processes.decide("compiled", None, lambda _: None, timeout=MEETING_SECONDS)
        with self.goodput.spend("init"):
            step, state = self._state()
        outcome, trouble = self._loop(step, state, compiled_step, compiled_eval)
        return self._finish(outcome, trouble)

    def _open(self) -> None:
        """Run directory, ledger, progress: what the rest reports to."""
        config, track = self.config, self.config.track
        notes = [compile_cache.enable()] if track.compile_cache else []
        check_platform(config.platform)
        self.config_json, self.run_id = configs.to_json(config), configs.fingerprint(config)
        self.start = provenance.collect(devices=jax.devices())
        if self.main:
            self.run_dir = self.stack.enter_context(
                RunDir(self.workdir, self.config_json, self.run_id, self.start)
            )
            notes += self.run_dir.notes
        self.goodput = Goodput(self.workdir if self.main else None)
        self.stack.callback(self.goodput.flush)
        self.progress = self.stack.enter_context(
            ProgressReport(
                config.train.steps, "", track.progress, track.progress_seconds, self.main
            )
        )
        for note in filter(None, notes):
            self._say(note)
        self._say(
            f"{config.name} in {self.workdir}: {jax.device_count()} x "
            f"{jax.devices()[0].device_kind} ({jax.default_backend()}), run {self.run_id}"
        )

    def _data(self) -> tuple[data.DataInfo, data.Data]:
        self._say("preparing data")
        built = data.build(self.config)
        sizes = ", ".join(f"{v:,} {k}" for k, v in built.sizes.items())
        self._say(f"data: {sizes}")
        return built.info, built

    def _program(self, info: data.DataInfo) -> Program:
        mesh = parallel.make_mesh(self.config.mesh)
        rules.check_devices(self.config, mesh.size)
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

    def _compile(self) -> tuple[Any, Any]:
        """Compiles both steps ahead of time: a batch of another shape is then an error."""
        with self.goodput.spend("compile"):
            step, seconds = timed_compile(self.program.lower_step())
            evaluate, more = (
                timed_compile(self.program.lower_evaluate()) if self.data.evals else (None, 0.0)
            )
        cached = self.compile_log.count("step", cached=True) > 0
        self._say(f"compiled in {seconds + more:.1f} s" + (" (from the cache)" if cached else ""))
        return step, evaluate

    def _state(self) -> tuple[int, TrainState]:
        config = self.config
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints",
            config.checkpoint.keep_last,
            config.checkpoint.keep_best,
            config.eval.stop_metric,
            config.eval.stop_mode,
            config.checkpoint.asynchronous,
        )
        self.stack.callback(self.checkpoints.close)
        for note in self.checkpoints.notes:
            self._say(note)
        step, state = self._newest(config.train.steps + 1)
        self.tracker = self.stack.enter_context(
            Tracker(self.workdir, config.track, step, config.name, config.to_dict(), main=self.main)
        )
        for note in self.tracker.notes:
            self._say(note)
        self.goodput.resumed(step)
        return step, state

    def _newest(self, before: int) -> tuple[int, TrainState]:
        """The state to go on from: of the newest checkpoint earlier than `before`."""
        self.checkpoints.wait()
        steps = [step for step in self.checkpoints.steps() if step < before]
        if steps:
            only = None if before > self.config.train.steps else max(steps)
            step, state, notes = self.checkpoints.restore(self.program.abstract, only)
            for note in notes:
                self._say(note)
            self._say(f"resuming at step {step}")
            return step, state
        state = self.program.fresh_state()
        source = self.config.train.init_from
        if source:
            params, _ = init_from(
                source, state.params, mapping=self.config.train.init_from_map, say=self._say
            )
            ema = params if state.ema is not None else None
            state = dataclasses.replace(state, params=params, ema=ema)
        return 0, state

    def _restore_before(self, step: int) -> tuple[int, TrainState]:
        """Rolls back: checkpoint, stream and ledger return to before a bad step."""
        found, state = self._newest(step)
        self.tracker.rewind(found)
        self.goodput.resumed(found)
        return found, state

    def _loop(
        self, step: int, state: TrainState, compiled_step: Any, compiled_eval: Any
    ) -> tuple[Outcome | None, DivergedError | None]:
        config = self.config
        bad_steps = BadSteps(
            self.workdir / "bad_steps",
            config.train.on_bad_step,
            config.train.max_bad_steps,
            writes=self.main,
        )
        stopping = EarlyStopping(
            config.eval.stop_metric,
            config.eval.stop_mode,
            config.eval.patience,
            config.eval.min_delta,
        )
        if step and (self.workdir / "metrics.jsonl").exists():
            stopping.replay(line for line in read_metrics(self.workdir) if line["step"] <= step)
        loop = Loop(
            self.program,
            compiled_step,
            self.data.train,
            {
                name: scorer(self.program, compiled_eval, split)
                for name, split in self.data.evals.items()
            },
            Hooks(self._log, self._save, self._restore_before, self._should_stop, self._say),
            bad_steps,
            stopping,
            self.goodput,
        )
        self.compile_log.warm()
        try:
            outcome = loop.run(step, state)
        except DivergedError as error:
            return None, error
        self.checkpoints.wait()
        return outcome, None

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self.tracker.write(step, values)
        # The steps are compiled ahead and refuse other shapes; this is about everything else.
        for text in self.compile_log.late():
            self._say(f"by step {step}: {text}")
        if "train/loss" in values:
            rate = values.get(f"perf/{self.program.task.unit}_per_second")
            self.progress.update(step, values["train/loss"], rate)
        elif any(key.startswith("eval/") for key in values):
            told = ", ".join(f"{k[5:]} {v:.4g}" for k, v in values.items() if k[:5] == "eval/")
            self._say(f"step {step} eval: {told}")

    def _save(self, step: int, state: TrainState, values: Mapping[str, float]) -> None:
        self.tracker.sync()
        self.checkpoints.save(step, state, values, self.config_json, self.start)
        self.goodput.mark(step)

    def _should_stop(self, step: int) -> bool:
        self.checkpoints.check()
        return self.processes.stop_at(step, self.stop.reason is not None)

    def _say(self, text: str) -> None:
        if self.main:
            self.progress.say(text)

    def _finish(self, outcome: Outcome | None, trouble: DivergedError | None) -> int:
        status = outcome.status if outcome else "diverged"
        if trouble:
            self._say(f"diverged: {trouble}")
        if self.main:
            summary = self._summary(status, outcome)
            if trouble:
                summary["error"] = str(trouble)
            self.run_dir.write_summary(summary)
            self._say(_digest(summary))
        if status == "preempted":
            self._say("stopped before the end; the same command goes on from here")
            return EXIT_PREEMPTED
        return self.config.train.diverged_exit if trouble else 0

    def _summary(self, status: str, outcome: Outcome | None) -> dict[str, Any]:
        """summary.json, see the contract in DESIGN.md."""
        task, config = self.program.task, self.config
        step = outcome.step if outcome else self._diverged_step()
        seconds = self.goodput.report()
        units = step * config.train.batch_size * task.units_per_example
        evals = dict(outcome.eval) if outcome else {}
        return {
            "status": status,
            "step": step,
            task.unit: units,
            "params": dataclasses.asdict(task.params),
            "flops": {
                name: per_unit * units for name, per_unit in dataclasses.asdict(task.flops).items()
            },
            "eval": evals.pop("eval", {}),
            **({"evals": evals} if evals else {}),
            "entropy": {
                "rate": self.data.info.entropy_rate,
                "eval": self.data.info.eval_entropy,
            },
            "seconds": seconds,
            "goodput": self.goodput.goodput(),
            "memory_bytes": {
                "host_peak": memory.host_peak_bytes(),
                "device": memory.device_bytes(jax.local_devices()),
            },
            "compiles": self.compile_log.count(cached=False),
            "run_id": self.run_id,
            "name": config.name,
            "seed": config.seed,
        }

    def _diverged_step(self) -> int:
        records = read_metrics(self.workdir)
        return records[-1]["step"] if records else 0


def _digest(summary: Mapping[str, Any]) -> str:
    """A summary in the lines that people look for first."""
    loss = summary["eval"].get("loss")
    lines = [
        f"{summary['status']} at step {summary['step']}",
        f"  eval loss {loss:.4f}" if isinstance(loss, float) else "  not evaluated",
    ]
    for key in ("bits_per_byte", "perplexity", "accuracy", "f1_macro"):
        if isinstance(summary["eval"].get(key), float):
            lines[-1] += f", {key.replace('_', ' ')} {summary['eval'][key]:.4f}"
    spent = {k: v for k, v in summary["seconds"].items() if v >= 0.05}
    lines.append("  seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in spent.items()))
    return "\n".join(lines)
