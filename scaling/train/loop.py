"""The loop: feed, step, read the metrics of the step before, evaluate, save.

A run alone is a population of one. Devices never wait for the host: step n is dispatched before the
metrics of step n - 1 are read, and batches are prepared and placed by a thread ahead of time. Nothing
is transferred implicitly (the transfer guard is on), so every copy between host and device is one
that stands in the methods of `self.program`.

Members need not be at the same step: one that rolled back, or was killed later than the others, is
behind or ahead. The clock is the step of the members furthest behind; the others wait for it. A
member that ends leaves its slot idle, and nothing that happens to one changes a number of another.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling.data import Data
from scaling.data.loader import leave_out
from scaling.data.prefetch import Prefetcher
from scaling.train.bad_steps import DivergedError, RollbackError
from scaling.train.compiled import Batch, Compiled, Turn, run_evaluation
from scaling.train.evaluate import numbers
from scaling.train.member import Member
from scaling.train.record import spend
from scaling.train.state import TrainState

# (member, step) -> (step, state): the newest checkpoint before `step`, or the fresh state; the
# metrics stream of the member goes back with it.
Restore = Callable[[Member, int], tuple[int, TrainState]]
# (step, {index of a member: its newest scores}) -> the members to end there as pruned.
Watch = Callable[[int, Mapping[int, Mapping[str, float]]], Collection[int]]


@dataclasses.dataclass
class Pending:
    """A dispatched step whose metrics have not been read."""

    step: int
    metrics: Mapping[str, jax.Array]
    members: Sequence[Member]


class Loop:
    """Trains all members to their ends."""

    def __init__(
        self,
        program: Compiled,
        data: Sequence[Data],
        members: Sequence[Member],
        restore: Restore,
        should_stop: Callable[[int], bool],
        watch: Watch | None = None,
    ) -> None:
        """Takes its parts together.

        Args:
          program: compiled.
          data: one for each distinct order of the training data.
          members: in the order of their slots.
          restore: see `Restore`.
          should_stop: (step) -> bool, asked once a step; True in all processes at the same step.
          watch: see `Watch`; None prunes nothing.
        """
        self.program, self.data, self.members = program, data, members
        self.restore, self.should_stop, self.watch = restore, should_stop, watch
        self.hparams = program.place_hparams([member.config for member in members])

    def run(self, states: Sequence[TrainState]) -> None:
        """Runs from the members' states until every member has a status; errors of one end that one.

        `failed` and `diverged` members hold their error.
        """
        self.states = self.program.stack(states)
        # Killed between the last checkpoint and the summary.
        self._complete([member for member in self.members if member.has_ended()])
        while running := self._running():
            with jax.transfer_guard("disallow"):
                self._segment(min(member.step for member in running))

    def _running(self) -> list[Member]:
        return [member for member in self.members if member.status is None]

    def _segment(self, step: int) -> None:
        """Steps on from the clock until all members have ended or one has gone back."""
        running = self._running()
        for member in running:
            member.speed.restart(member.step)
        section, end = running[0].config.data, max(member.last_step for member in running)
        pending: Pending | None = None
        with Prefetcher(self._place, step, section.prefetch, section.workers, end) as batches:
            while active := self._active(step):
                if self.should_stop(step):
                    self._read(pending)
                    self._leave(self._running(), "preempted")
                    return
                records = [member.record for member in active]
                with spend("data_wait", records):
                    batch = batches.get()
                with spend("train", records):
                    metrics = self._dispatch(batch, active)
                    step += 1
                    self._read(pending)
                pending = Pending(step, metrics, active)
                if any(m.due(step) or m.saves(step) or m.last_step == step for m in active):
                    self._read(pending)
                    pending = None
                    # Not members that have waited here, nor any that have ended or gone back.
                    self._after(step, [m for m in self._active(step) if m in active])
                if any(member.step < step for member in self._running()):
                    break
            self._read(pending)

    def _active(self, step: int) -> list[Member]:
        """The members that stand at this step; a save that failed has ended its member."""
        for member in self._running():
            with self._alone(member):
                member.record.checkpoints.check()
        return [member for member in self._running() if member.step == step]

    def _dispatch(self, batch: Batch, active: Sequence[Member]) -> Mapping[str, jax.Array]:
        self.states, metrics = self.program.step(
            self.states, batch, self.hparams, self._turn(active)
        )
        for member in active:
            member.step += 1
        return metrics

    def _turn(self, active: Sequence[Member]) -> Turn:
        chosen = {member.index for member in active}
        return Turn(
            active=np.array([member.index in chosen for member in self.members]),
            seeds=np.array([member.config.seed for member in self.members]),
            steps=np.array([member.step for member in self.members], np.int32),
            sources=np.array([member.source for member in self.members], np.int32),
            used=np.array([m.uses_batch(m.step + 1) for m in self.members], np.float32),
        )

    def _place(self, step: int) -> Batch:
        """The distinct batches of a step on the devices; runs in the prefetching thread."""
        return self.program.place(
            [functools.partial(self._rows, source, step) for source in range(len(self.data))]
        )

    def _rows(self, source: int, step: int, start: int, stop: int) -> Mapping[str, np.ndarray]:
        rows = self.data[source].train.batch(step, start, stop)
        if not any(m.uses_batch(step + 1) for m in self.members if m.source == source):
            leave_out(rows)
        return rows

    # --- what follows a step -----------------------------------------------------------------

    def _read(self, pending: Pending | None) -> None:
        """Reads a step's metrics, waiting for the step, into the members that took it."""
        if pending is None:
            return
        host = {k: np.asarray(v) for k, v in jax.device_get(dict(pending.metrics)).items()}
        for member in pending.members:
            # Not of one that has ended or gone back since.
            if member.status is None and member.step >= pending.step:
                with self._alone(member):
                    member.read(pending.step, self.program.part(host, member.slot))

    def _after(self, step: int, members: Sequence[Member]) -> None:
        """Evaluates, ends, prunes and saves the members for which it is time."""
        last = [member for member in members if member.last_step == step]
        between = [member for member in members if member.last_step != step and member.due(step)]
        for group, final in ((last, True), (between, False)):
            names = group[0].due(step) if group else []
            for member, results in self._evaluate(group, names, final):
                with self._alone(member):
                    member.evaluated(results, functools.partial(self._variables, member))
        early = [m for m in between if m.status is None and m.stopping.stopped(step)]
        for member in early:
            if any(job.chosen(last=True) != job.chosen(last=False) for job in member.jobs):
                member.evals = {}  # of other batches than the summary wants
        self._complete([m for m in (*last, *early) if m.status is None])
        going = {m.index: m for m in between if m.status is None}
        if self.watch is not None and going:
            pruned = self.watch(step, {index: numbers(m.evals) for index, m in going.items()})
            self._leave([m for index, m in going.items() if index in pruned], "pruned")
        self._save([m for m in members if m.status is None and m.saves(step)])

    def _evaluate(
        self, members: Sequence[Member], names: Collection[str], final: bool
    ) -> list[tuple[Member, dict[str, Any]]]:
        """The values of these evaluations, in one pass over the held-out batches."""
        if not members or not names:
            return []
        turn = self._turn(members)
        results: dict[int, dict[str, Any]] = {member.slot: {} for member in members}
        with spend("eval", [member.record for member in members]):
            variables = self.states.evaluated()
            for job in [job for job in self.program.jobs if job.name in names]:
                artefacts = self.data[0].artefacts
                values = run_evaluation(self.program, job, variables, turn, final, artefacts)
                for slot, result in values.items():
                    results[slot][job.name] = result
        return [(member, results[member.slot]) for member in members]

    def _variables(self, member: Member) -> Mapping[str, Any]:
        (state,) = self.program.take(self.states, [member.slot])
        return state.evaluated()

    def _complete(self, members: Sequence[Member]) -> None:
        """Ends members that are done; those without final values get them first."""
        unscored = [member for member in members if not member.evals]
        names = [job.name for job in self.program.jobs]
        for member, results in self._evaluate(unscored, names, final=True):
            member.evals = results
        self._leave(members, "completed")

    def _leave(self, members: Sequence[Member], status: str) -> None:
        for member in members:
            member.status = status
        self._save(members)
        for member in members:
            with self._alone(member):
                member.end()

    def _save(self, members: Sequence[Member]) -> None:
        if not members:
            return
        states = self.program.take(self.states, [member.slot for member in members])
        for member, state in zip(members, states, strict=True):
            with self._alone(member):
                member.save(state)

    @contextlib.contextmanager
    def _alone(self, member: Member) -> Iterator[None]:
        """What goes wrong for a member inside ends or rewinds this member alone."""
        try:
            yield
        except RollbackError as rollback:
            with self._alone(member):
                self._roll_back(member, rollback.step)
        except DivergedError as error:
            member.status, member.error = "diverged", error
        except Exception as error:
            member.status, member.error = "failed", error

    def _roll_back(self, member: Member, step: int) -> None:
        def restore() -> TrainState:
            member.step, state = self.restore(member, step)
            return state

        with jax.transfer_guard("allow"):
            self.states = self.program.replace(self.states, member.slot, restore)
        member.record.say(f"went back to step {member.step}; the batch of step {step} is left out")
