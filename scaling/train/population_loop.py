"""The loop of a population: the loop of `train.loop`, with a set of books for every member.

Members need not be at the same step: one that rolled back, or was killed later than the others, is
behind or ahead. The clock is the step of the members furthest behind; the others wait for it. A
member that ends (done, diverged, stopped early, pruned, failed) leaves its slot idle, and nothing
that happens to one changes a number of another.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling.data import Data
from scaling.data.prefetch import Prefetcher
from scaling.train.bad_steps import DivergedError, RollbackError
from scaling.train.books import Books
from scaling.train.callbacks import Event
from scaling.train.evaluate import Scheduled, batch_key, collected, first_carry, report
from scaling.train.population_program import PopulationProgram
from scaling.train.record import Record
from scaling.train.state import TrainState

PyTree = Any
# (step, {member: values of its evaluation}) -> the members to end there as pruned.
Watch = Callable[[int, Mapping[int, Mapping[str, float]]], Collection[int]]


@dataclasses.dataclass
class Member:
    """One run of a population.

    Attributes:
      index: of the caller's list.
      slot: where its state is.
      source: which of the distinct batches it reads.
      record: its run directory.
      books: its books.
      step: updates done.
      status: how it ended; None while it runs.
      error: why, where something went wrong.
    """

    index: int
    slot: int
    source: int
    record: Record
    books: Books
    step: int
    status: str | None = None
    error: str = ""


@dataclasses.dataclass
class Pending:
    """A dispatched step whose metrics have not been read."""

    step: int
    metrics: Mapping[str, jax.Array]
    members: list[Member]


class PopulationLoop:
    """Runs all members to their ends."""

    def __init__(
        self,
        program: PopulationProgram,
        data: Sequence[Data],
        jobs: Sequence[Scheduled],
        members: Sequence[Member],
        hparams: Mapping[str, Sequence[float]],
        restore: Callable[[Member, int], tuple[int, TrainState]],
        should_stop: Callable[[], bool],
        watch: Watch | None,
    ) -> None:
        """Takes its parts together.

        Args:
          program: compiled.
          data: one for each distinct order of the training data.
          jobs: the evaluations that all members have.
          members: in the order of their slots.
          hparams: {name: a value for each member}.
          restore: (member, step) -> newest checkpoint before `step`, or the fresh state.
          should_stop: asked once a step.
          watch: see `Watch`; None prunes nobody.
        """
        self.program, self.data, self.jobs, self.members = program, data, jobs, members
        self.hparams = program.per_slot(
            {name: np.asarray(values, np.float32) for name, values in hparams.items()}
        )
        self.restore, self.should_stop, self.watch = restore, should_stop, watch

    def run(self, states: Sequence[PyTree]) -> None:
        """Runs from the members' states (on the host) until every member has ended."""
        for member in self.members:
            books = member.books
            if member.step >= books.last_step() or books.stopped(member.step):
                # Killed between the last checkpoint and the summary.
                member.status = "completed"
        self.states = self.program.stack(list(states))
        self._score_unscored()
        while running := self._running():
            clock = min(member.step for member in running)
            with jax.transfer_guard("disallow"):
                self._segment(clock)

    def _running(self) -> list[Member]:
        return [member for member in self.members if member.status is None]

    def _segment(self, step: int) -> None:
        """Steps on from the clock until everybody has ended or somebody has gone back."""
        for member in self._running():
            member.books.speed.restart(member.step)
        pending: Pending | None = None
        config = self.members[0].books.config.data
        end = max(member.books.last_step() for member in self._running())
        with Prefetcher(self._place, step, config.prefetch, config.workers, end) as batches:
            while active := [m for m in self._running() if m.step == step]:
                if self.should_stop():
                    self._read(pending)
                    self._leave(self._running(), "preempted")
                    return
                with self._spend("data_wait", active):
                    batch = batches.get()
                with self._spend("train", active):
                    metrics = self._dispatch(step, batch, active)
                    step += 1
                    self._read(pending)
                pending = Pending(step, metrics, active)
                if any(member.books.due(step) or member.books.saves(step) for member in active):
                    self._read(pending)
                    pending = None
                    self._punctuate(
                        step, [m for m in active if m.status is None and m.step == step]
                    )
                if any(member.step < step for member in self._running()):
                    break
            self._read(pending)

    def _dispatch(
        self, step: int, batch: dict[str, jax.Array], active: Sequence[Member]
    ) -> Mapping[str, jax.Array]:
        slots = len(self.members)
        turn: dict[str, np.ndarray] = {
            "active": np.zeros(slots, np.bool_),
            "source": np.array([member.source for member in self.members], np.int32),
            "used": np.ones(slots, np.float32),
        }
        for member in active:
            turn["active"][member.slot] = True
            turn["used"][member.slot] = member.books.intended(step + 1)
            member.step = step + 1
        self.states, metrics = self.program.step(
            self.states, batch, self.hparams, self.program.per_slot(turn)
        )
        return metrics

    def _place(self, step: int) -> dict[str, jax.Array]:
        """The distinct batches of a step; runs in the prefetching thread."""
        return self.program.place_batches(
            [one.train.batch(step, 0, one.train.batch_size) for one in self.data]
        )

    # --- what follows a step -----------------------------------------------------------------

    def _read(self, pending: Pending | None) -> None:
        """Reads a step's metrics into the books of the members that took it."""
        if pending is None:
            return
        host = {k: np.asarray(v) for k, v in jax.device_get(dict(pending.metrics)).items()}
        for member in pending.members:
            # Not of one that has ended or gone back since.
            if member.status is None and member.step >= pending.step:
                with self._member(member):
                    values = {name: x[member.slot] for name, x in host.items()}
                    member.books.read(pending.step, values)

    def _punctuate(self, step: int, members: Sequence[Member]) -> None:
        """Evaluates and saves the members for which it is time."""
        due = [member for member in members if member.books.due(step)]
        ended: list[Member] = []
        going: dict[int, Member] = {}
        for whole in (False, True):
            group = [m for m in due if (m.books.last_step() == step) == whole]
            for member, results in self._evaluate(group, step, whole):
                with self._member(member):
                    variables = functools.partial(self._variables, member)
                    if member.books.evaluated(step, results, variables) or whole:
                        ended.append(member)
                    else:
                        going[member.index] = member
        # The others were scored on the whole split already.
        early = [m for m in ended if m.books.config.eval.batches and m.books.last_step() != step]
        for member, results in self._evaluate(early, None, whole=True):
            member.books.evals = results
        self._leave(ended, "completed")
        if self.watch is not None and going:
            values = {index: member.books.numbers() for index, member in going.items()}
            pruned = self.watch(step, values)
            self._leave([member for i, member in going.items() if i in pruned], "pruned")
        self._save([m for m in members if m.status is None and m.books.saves(step)])

    def _evaluate(
        self, members: Sequence[Member], step: int | None, whole: bool
    ) -> list[tuple[Member, dict[str, Any]]]:
        """The values of some members' evaluations, in one pass over each one's held-out batches.

        Args:
          members: with the same steps behind them.
          step: which evaluations are due; None for those after the last step.
          whole: whether this is after the last step.
        """
        if not members:
            return []
        chosen = np.zeros(len(self.members), np.bool_)
        chosen[[member.slot for member in members]] = True
        steps = np.array([member.step for member in self.members], np.int32)
        per_slot = self.program.per_slot({"active": chosen, "step": steps})
        found: list[dict[str, Any]] = [{} for _ in members]
        names = {name for member in members for name in member.books.due(step)}
        with self._spend("eval", members):
            variables = self.states.evaluated()
            for job in [job for job in self.jobs if job.name in names]:
                results = self._results(job, variables, per_slot, members, whole)
                for values, result in zip(found, results, strict=True):
                    values[job.name] = report(job, result, self.data[0].artefacts)
        return list(zip(members, found, strict=True))

    def _results(
        self,
        job: Scheduled,
        variables: PyTree,
        per_slot: Mapping[str, jax.Array],
        members: Sequence[Member],
        whole: bool,
    ) -> list[Any]:
        size = job.batch_size
        seeds = [member.books.config.seed for member in self.members]

        def run(i: int, carry: PyTree) -> tuple[PyTree, PyTree]:
            batch = self.program.place_batch(job.examples.batch(i, size, 0, size))
            keys = np.stack([batch_key(seed, job.name, i) for seed in seeds])
            key = self.program.per_slot({"key": keys})["key"]
            evaluate = self.program.evaluations[job.name]
            return evaluate(variables, batch, key, per_slot["step"], carry, per_slot["active"])

        with jax.transfer_guard("allow"):
            carry = jax.device_get(first_carry(job))
            stacked = None if carry is None else self.program.stack([carry])
        return collected(job, whole, run, stacked, [member.slot for member in members])

    def _score_unscored(self) -> None:
        """Members that were done when they came: the summary needs their evaluation."""
        done = [member for member in self.members if member.status == "completed"]
        for member, results in self._evaluate(done, None, whole=True):
            member.books.evals = results

    def _variables(self, member: Member) -> Mapping[str, Any]:
        """A member's evaluated variables, on the host."""
        (tree,) = self.program.take(self.states, [member.slot])
        return tree.evaluated()

    def _leave(self, members: Sequence[Member], status: str) -> None:
        """Saves members and ends them."""
        for member in members:
            member.status = status
        self._save(members)
        for member in members:
            with self._member(member):
                member.books.call(Event("end", member.step, {}, member.books.workdir))

    def _save(self, members: Sequence[Member]) -> None:
        if not members:
            return
        trees = self.program.take(self.states, [member.slot for member in members])
        for member, tree in zip(members, trees, strict=True):
            with self._member(member):
                member.record.checkpoints.check()
                member.books.save(member.step, tree)

    @contextlib.contextmanager
    def _member(self, member: Member) -> Iterator[None]:
        """What goes wrong for a member inside ends or rewinds this member alone."""
        try:
            yield
        except RollbackError as rollback:
            member.step, tree = self.restore(member, rollback.step)
            self.states = self.program.put(self.states, member.slot, tree)
            member.books.hooks.note(
                f"went back to step {member.step}; the batch of step {rollback.step} is left out"
            )
        except DivergedError as error:
            member.status, member.error = "diverged", str(error)
        except Exception as error:
            member.status, member.error = "failed", f"{type(error).__name__}: {error}"

    @contextlib.contextmanager
    def _spend(self, bucket: str, members: Sequence[Member]) -> Iterator[None]:
        """Wall time to the ledgers of all these members."""
        with contextlib.ExitStack() as stack:
            for member in members:
                stack.enter_context(member.record.goodput.spend(bucket))
            yield
