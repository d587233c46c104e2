"""Checkpoints: written in the background, whole or not at all, restored on any mesh or as numpy.

Orbax writes and reads the arrays. Around it, here: one directory a step that appears by a rename
when it is complete, a manifest with the hash of every file in it, the choice of what to keep, and
the fall back to an earlier step when the newest is damaged. See `checkpoint_format` for the layout.
"""

import contextlib
import itertools
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from scaling.track import files
from scaling.train import checkpoint_format as layout
from scaling.train.checkpoint_format import CheckpointError, CheckpointMismatch
from scaling.train.checkpoint_reading import attempt, load_numpy, newest_whole, read_info

__all__ = ["CheckpointError", "CheckpointMismatch", "Checkpoints", "load_numpy", "read_info"]

PyTree = Any

# A barrier's name can be used once; all processes count alike, as they make the same calls.
_BARRIERS = itertools.count()


class Checkpoints:
    """The checkpoints of one run.

    In a run of several processes all of them make the same calls; `check`, `steps`, `latest` and
    `committed` are local. One save is in flight at a time: the next one waits for it.

    Attributes:
      notes: what was found at the start, such as leftovers of a killed save.
      committed: the newest step whose save is known to be complete and durable, or None.
      blocked_seconds: time that `save` and `wait` have kept the caller waiting, in all.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        keep_last: int = 2,
        keep_best: int = 0,
        best_metric: str = "eval/loss",
        best_mode: Literal["min", "max"] = "min",
        asynchronous: bool = True,
        read_only: bool = False,
        timeout: float = 1200.0,
        keep_steps: Sequence[int] = (),
    ) -> None:
        """Opens a folder of checkpoints, and clears away what a killed save left in it.

        Args:
          directory: the folder, or (read only) a run directory.
          keep_last: how many of the newest to keep, at least 1.
          keep_best: how many of the best to keep besides; a step whose metrics lack `best_metric`,
            or hold NaN there, is never among the best.
          best_metric: the key of `save`'s metrics that ranks them.
          best_mode: whether the smallest or the largest value is the best.
          asynchronous: return from `save` when the arrays are copied, not when they are on disk.
          read_only: never write, create or delete anything, as another process may own the folder.
          timeout: seconds one save may take before it counts as failed.
          keep_steps: steps that are never deleted.

        Raises:
          CheckpointError: the folder cannot be created or written to.
          ValueError: a number above is out of range.
        """
        if keep_last < 1 or keep_best < 0 or best_mode not in ("min", "max"):
            raise ValueError(
                f"checkpoint.keep_last={keep_last} must be at least 1, checkpoint.keep_best="
                f"{keep_best} at least 0, and the mode {best_mode!r} min or max"
            )
        self._directory = layout.locate(directory) if read_only else pathlib.Path(directory)
        self._directory = self._directory.absolute()
        self._keep_last, self._keep_best = keep_last, keep_best
        self._keep_steps = frozenset(keep_steps)
        self._best_metric, self._best_mode = best_metric, best_mode
        self._asynchronous, self._read_only, self._timeout = asynchronous, read_only, timeout
        self._orbax: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None
        self._aside: dict[int, str] = {}
        self._agreed: set[int] = set()
        self.notes: list[str] = []
        self.committed: int | None = None
        self.blocked_seconds = 0.0
        if not read_only:
            self._open()

    def _open(self) -> None:
        if jax.process_index() == 0:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                for path in layout.leftovers(self._directory):
                    shutil.rmtree(path)
                    self.notes.append(f"removed {path.name}, left by a save that was killed")
            except OSError as error:
                raise layout.explain(error, self._directory, 0) from error
        self.agreed()
        # Compression saves 8 % on weights and takes 4 times the processor time from the run.
        self._orbax = ocp.AsyncCheckpointer(
            ocp.PyTreeCheckpointHandler(use_compression=False),
            async_options=ocp.options.AsyncOptions(timeout_secs=max(1, int(self._timeout))),
        )

    # --- saving ------------------------------------------------------------------------------

    def save(
        self,
        step: int,
        state: PyTree,
        metrics: Mapping[str, float],
        config_json: str,
        provenance: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
    ) -> bool:
        """Saves `state` under `step`; when it returns, the arrays may be donated or changed.

        Args:
          step: updates done so far.
          state: any pytree of numeric arrays and typed random keys, sharded in any way.
          metrics: numbers known at this step; `best_metric` is looked up here.
          config_json: the resolved config, stored beside the arrays.
          provenance: where the run came from, stored likewise.
          texts: further small files, by name, stored likewise.

        Returns:
          False when a whole checkpoint of this step is there already: nothing is written then.

        Raises:
          CheckpointError: this save cannot be started, or the one before it failed.
        """
        if self._orbax is None:
            raise CheckpointError(f"{self._directory} was opened read only: nothing can be saved")
        begin = time.monotonic()
        self._join()
        self.check()
        # Not each by its own listing, which may be old on a network file system: who returned here
        # while another saves would leave it waiting.
        steps = self.steps() if jax.process_count() == 1 else self._agreed
        if step in steps and step not in self._aside:
            return False
        try:
            self._set_aside()
            temporary = self._directory / f"{layout.TEMPORARY}{step:08d}"
            flat = layout.flatten(state)
            tree = {"/".join(path): layout.describe(leaf) for path, leaf in flat.items()}
            if jax.process_index() == 0:
                _write_texts(temporary, step, tree, metrics, config_json, provenance)
                for name, text in (texts or {}).items():
                    files.write_text(temporary / name, text)
            with jax.transfer_guard("allow"):
                arrays = {p: layout.storable(x) for p, x in flat.items() if np.size(x)}
                saved = layout.nest(arrays)
                self._orbax.save(temporary / layout.ARRAYS, args=ocp.args.PyTreeSave(saved))
        except Exception as error:
            failure = layout.explain(error, self._directory, step)
            self._forget(step)
            raise failure from error
        self._thread = threading.Thread(target=self._finish, args=(step,), name="checkpoint")
        self._thread.start()
        if not self._asynchronous:
            self._join()
            self.check()
        self.blocked_seconds += time.monotonic() - begin
        return True

    def _finish(self, step: int) -> None:
        """In the background: waits for the arrays, hashes, renames, deletes what is not kept."""
        try:
            assert self._orbax is not None
            self._orbax.wait_until_finished()
            self._commit(step)
            self.committed = step
            self._agreed.add(step)
        except BaseException as error:
            self._error = layout.explain(error, self._directory, step)
            self._error.__cause__ = error
            self._forget(step)

    def _commit(self, step: int) -> None:
        """Makes the temporary directory the checkpoint; every process hashes its share of files."""
        temporary = self._directory / f"{layout.TEMPORARY}{step:08d}"
        final = layout.step_path(self._directory, step)
        index, count = jax.process_index(), jax.process_count()
        failure: BaseException | None = None
        try:
            names = layout.stored_files(temporary)
            mine = layout.digest(temporary, names[index::count], sync=True)
            if count > 1:
                files.write_json(temporary / f"manifest.part{index}", mine)
        except BaseException as error:  # the others must not be left waiting at the barrier
            failure = error
        self._barrier(step)
        if failure is None and index == 0:
            try:
                if count > 1:
                    parts = [temporary / f"manifest.part{i}" for i in range(count)]
                    mine = {k: v for part in parts for k, v in files.read_json(part).items()}
                    for part in parts:
                        part.unlink()
                    # On a network file system another process may not have seen all of them.
                    unseen = [name for name in names if name not in mine]
                    mine |= layout.digest(temporary, unseen, sync=True)
                layout.write_manifest(temporary, {name: mine[name] for name in names})
                for folder in [temporary, *(p for p in temporary.rglob("*") if p.is_dir())]:
                    files.sync_directory(folder)
                temporary.rename(final)
                files.sync_directory(self._directory)
                self.committed = step
                self._prune()
            except BaseException as error:
                failure = error
        if failure is not None and count > 1:  # said now: the others may end this process first
            _tell(f"process {index}: {layout.explain(failure, self._directory, step)}")
        self._barrier(step)  # from here on all processes see the same steps
        if failure is not None:
            raise failure
        if not final.is_dir():
            raise CheckpointError(f"process 0 could not finish {final}; its output says why")

    def _prune(self) -> None:
        """Deletes what is not kept; what cannot be deleted must not end a run that has saved."""
        try:
            layout.prune(self._directory, self._kept(), self._keep_last)
        except OSError as error:
            _tell(f"an old checkpoint could not be deleted, which is tried again: {error}")

    def _barrier(self, step: int) -> None:
        key = f"scaling-checkpoint:{step}:{next(_BARRIERS)}"
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=int(self._timeout * 1000))

    def _forget(self, step: int) -> None:
        """Removes what a failed save has written, which may be what fills the disk."""
        if jax.process_index() == 0:
            shutil.rmtree(self._directory / f"{layout.TEMPORARY}{step:08d}", ignore_errors=True)

    def _kept(self) -> set[int]:
        steps = self.steps()
        kept = set(steps[-self._keep_last :]) | self._keep_steps.intersection(steps)
        scores: list[tuple[float, int]] = []
        for step in steps if self._keep_best else []:
            try:
                metrics = files.read_json(layout.step_path(self._directory, step) / layout.METRICS)
            except (OSError, ValueError):  # damaged; no reason to fail the save of another step
                continue
            value = metrics.get(self._best_metric)
            if isinstance(value, int | float) and value == value:
                # Of equal scores the later step is the better one.
                scores.append((value if self._best_mode == "min" else -value, -step))
        return kept | {-step for _, step in sorted(scores)[: self._keep_best]}

    # --- states ------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Finished checkpoints, ascending, whole or not."""
        return layout.find_steps(self._directory)

    def agreed(self) -> list[int]:
        """Process 0's `steps`, on all processes; all call it."""
        found = _broadcast(self.steps())
        self._agreed = set(found)
        return found

    def latest(self) -> int | None:
        """The newest finished checkpoint, or None."""
        return max(self.steps(), default=None)

    def check(self) -> None:
        """Raises the error of a save that failed in the background, every time it is called.

        Raises:
          CheckpointError: the run must stop, as it can no longer be resumed from where it is.
        """
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Returns when no save is in flight.

        Raises:
          CheckpointError: a save failed.
        """
        begin = time.monotonic()
        self._join()
        self.blocked_seconds += time.monotonic() - begin
        self.check()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Waits for the save in flight and releases the threads.

        Raises:
          CheckpointError: a save failed.
        """
        self._join()
        if self._orbax is not None:
            self._orbax.close()
            self._orbax = None
        self.check()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- restoring ---------------------------------------------------------------------------

    def restore(self, like: PyTree, step: int | None = None) -> tuple[int, PyTree, list[str]]:
        """The newest checkpoint that is whole, or the one of `step`.

        Steps that were passed over as damaged, or that are newer than the one returned, stay on
        disk; the next `save` renames them to `damaged-*` and `abandoned-*` first.

        Args:
          like: the tree wanted: arrays or `jax.ShapeDtypeStruct`. Leaves with a sharding come back
            as `jax.Array`s in that sharding, whatever mesh they were saved from; leaves without,
            as numpy.
          step: this step and no other.

        Returns:
          (step, state, notes); the notes say what was damaged or could not be verified.

        Raises:
          CheckpointMismatch: the checkpoint is whole but its tree is another.
          CheckpointError: nothing is there, or all of it is damaged (each is listed).
        """
        self._join()
        available = self.agreed()
        wanted = available[::-1] if step is None else [s for s in available if s == step]
        if not wanted:
            raise CheckpointError(
                f"no checkpoint{'' if step is None else f' of step {step}'} in {self._directory}; "
                f"there is {available or 'none'}"
            )
        failures: list[str] = []
        for candidate in wanted:
            path = layout.step_path(self._directory, candidate)
            wrong, verified = layout.damage(path, jax.process_index(), jax.process_count())
            state = None
            if not _any(bool(wrong)):
                wrong, state = attempt(path, like, verified)
            if _any(bool(wrong)):
                told = "; ".join(wrong[:3]) or "another process could not read it"
                failures.append(f"step {candidate} is damaged: {told} (in {path})")
                self._aside[candidate] = "damaged"
                continue
            notes = list(failures)
            if not verified:
                notes.append(f"step {candidate} has no manifest, so it could not be verified")
            if failures:
                notes.append(f"fell back to step {candidate}")
            self._abandon(candidate, available)
            return candidate, state, notes
        raise CheckpointError(
            "no checkpoint can be restored:\n  " + "\n  ".join(failures) + "\nRestore the files "
            "from a backup, or start again with another --workdir."
        )

    def _abandon(self, step: int, available: Sequence[int]) -> None:
        """From here on the run continues from `step`: what is newer belongs to a lost future."""
        for newer in available:
            if newer > step:
                self._aside.setdefault(newer, "abandoned")

    def _set_aside(self) -> None:
        if jax.process_index() == 0:
            for step, reason in self._aside.items():
                if layout.step_path(self._directory, step).exists():
                    layout.set_aside(self._directory, step, reason)
        self._agreed -= self._aside.keys()
        self._aside = {}


def _write_texts(
    path: pathlib.Path,
    step: int,
    tree: Mapping[str, Any],
    metrics: Mapping[str, float],
    config_json: str,
    provenance: Mapping[str, Any],
) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    files.write_json(path / layout.TREE, {"format": layout.FORMAT, "step": step, "leaves": tree})
    files.write_json(path / layout.METRICS, dict(metrics))
    files.write_json(path / layout.PROVENANCE, dict(provenance))
    files.write_text(path / layout.CONFIG, config_json)


def _tell(text: str) -> None:
    """Says something at once, from any thread; a reader that is gone must not fail the save."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def agreed_source(directory: str | pathlib.Path) -> int | None:
    """The newest whole step of another run, as process 0 finds it; all processes call it.

    That run may be training: each would find another step. None in a run of one process.

    Raises:
      CheckpointError: process 0 finds none; in all processes.
    """
    if jax.process_count() == 1:
        return None
    found, failure = -1, CheckpointError(f"process 0 finds no whole checkpoint in {directory}")
    if jax.process_index() == 0:
        try:
            found = newest_whole(directory)
        except CheckpointError as error:
            failure = error
    found = int(multihost_utils.broadcast_one_to_all(np.asarray(found, np.int32)))
    if found < 0:
        raise failure
    return found


def _any(flag: bool) -> bool:
    """Whether the flag is up in any process (all must call it)."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag, np.int32))))


def _broadcast(steps: Sequence[int]) -> list[int]:
    """Process 0's list, as shared file systems may show others an older one."""
    if jax.process_count() == 1:
        return list(steps)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(steps), np.int32)))
    padded = np.zeros(size, np.int32)
    padded[: min(size, len(steps))] = list(steps)[:size]
    return [int(step) for step in multihost_utils.broadcast_one_to_all(padded)] if size else []
