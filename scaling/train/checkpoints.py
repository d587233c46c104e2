"""Checkpoints: written in the background, whole or not at all, restored on any mesh or as numpy.

Orbax writes and reads the arrays. Around it, here: one directory per step that appears by a rename
when it is complete, with a manifest that holds the hash of every file in it, and the choice of what
to keep. `checkpoint_format` has the layout and the fall back from a damaged step,
`checkpoint_reading` the reading, also without a run.

This is not `ocp.CheckpointManager` (of 0.12.8): it cannot hash the files before it commits them,
does not sync the directories that it renames, loses sight of a step on disk when a save fails,
takes NaN for the best, and ends the run when an old step cannot be deleted.
"""

import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from scaling.parallel.sharding import PyTree
from scaling.track import files
from scaling.train import checkpoint_format as layout
from scaling.train import checkpoint_reading as reading
from scaling.train.checkpoint_format import CheckpointError
from scaling.train.checkpoint_format import CheckpointMismatch as CheckpointMismatch
from scaling.train.checkpoint_reading import CheckpointInfo as CheckpointInfo
from scaling.train.checkpoint_reading import read_info as read_info

# A barrier's name can be used once; all processes count alike, as they make the same calls.
_BARRIERS = itertools.count()
_ASIDE = ("damaged", "abandoned")
SAVE_SECONDS = 1200  # after which a save has failed
_PART_BYTES = 1 << 20  # replicas share the writing of an array in parts of at least this size


def _handlers() -> ocp.type_handlers.TypeHandlerRegistry:
    """How arrays are written: small ones by their first replica alone.

    Orbax otherwise cuts every array into a slice per replica, and the first save of a run compiles
    a program for each slice (64 for a small transformer on 8 devices).
    """
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_PART_BYTES)
    return ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )


class Checkpoints(files.Closing):
    """The checkpoints of one run.

    In a run of several processes all of them make the same calls; `check`, `steps` and `committed`
    are local. One save is in flight at a time: the next one waits for it.

    Attributes:
      notes: what opening the folder found, such as leftovers of a killed save.
      committed: the newest step whose save is known to be complete and durable, or None.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep_last: int = 2,
        keep_best: int = 0,
        best_metric: str = "eval/loss",
        best_mode: Literal["min", "max"] = "min",
        asynchronous: bool = True,
        read_only: bool = False,
        keep_steps: Sequence[int] = (),
        say: Callable[[str], None] = print,
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
          keep_steps: steps that are never deleted.
          say: told what a person should know while a save goes on, from its thread and in every
            process. OSError and ValueError from it are ignored: nobody may be reading any more.

        Raises:
          CheckpointError: the folder cannot be created or written to.
          ValueError: a number above is out of range.
        """
        if keep_last < 1 or keep_best < 0:
            raise ValueError(
                f"checkpoint.keep_last={keep_last} must be at least 1, checkpoint.keep_best="
                f"{keep_best} at least 0"
            )
        path = layout.locate(directory) if read_only else pathlib.Path(directory).absolute()
        self._directory, self._read_only, self._say = path, read_only, say
        self._keep_last, self._keep_best, self._keep_steps = keep_last, keep_best, set(keep_steps)
        self._best_metric, self._best_mode = best_metric, best_mode
        self._asynchronous = asynchronous
        self._saving: concurrent.futures.Future[None] | None = None
        self._aside: dict[int, str] = {}
        self.notes: list[str] = []
        self.committed: int | None = None
        if not read_only:
            _from_process_0(self._clear)
            self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
            # Compression saves 8 % on weights and takes 4 times the processor time from the run.
            self._orbax = ocp.AsyncCheckpointer(
                ocp.PyTreeCheckpointHandler(
                    use_compression=False, type_handler_registry=_handlers()
                ),
                async_options=ocp.options.AsyncOptions(timeout_secs=SAVE_SECONDS),
            )

    def _clear(self) -> list[int]:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(self._directory.glob(layout.TEMPORARY + "*")):
                shutil.rmtree(path)
                self.notes.append(f"removed {path.name}, left by a save that was killed")
        except OSError as error:
            raise layout.explain(
                error, f"could not open {self._directory} for checkpoints"
            ) from error
        return []

    # --- saving ------------------------------------------------------------------------------

    def save(
        self, step: int, state: PyTree, metrics: Mapping[str, float], texts: Mapping[str, str]
    ) -> bool:
        """Saves `state` under `step`; when it returns, the arrays may be donated or changed.

        Args:
          step: updates done so far.
          state: any pytree of numeric arrays and typed random keys, sharded in any way.
          metrics: numbers known at this step; `best_metric` is looked up here.
          texts: small files to store beside the arrays, by name, such as {"config.json": ...}.

        Returns:
          False when a whole checkpoint of this step is there already: nothing is written then.

        Raises:
          CheckpointError: this save cannot be started, or the one before it failed.
        """
        if self._read_only:
            raise CheckpointError(f"{self._directory} was opened read only: nothing can be saved")
        self.wait()
        try:
            leaves = reading.flatten(state)
            described = {name: reading.describe(leaf) for name, leaf in leaves.items()}
            tree = {"format": layout.FORMAT, "step": step, "leaves": described}
            own = {layout.TREE: files.to_json(tree), layout.METRICS: files.to_json(metrics)}
            if clash := own.keys() & texts.keys():
                raise CheckpointError(f"{sorted(clash)} cannot be among `texts`: rename it")
            if not _from_process_0(lambda: self._prepare(step, {**own, **texts})):
                return False
            with jax.transfer_guard("allow"):
                request = ocp.args.PyTreeSave(reading.arrays_to_store(leaves))
                self._orbax.save(self._temporary(step) / layout.ARRAYS, args=request)
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = self._background.submit(self._finish, step)
        if not self._asynchronous:
            self.wait()
        return True

    def _prepare(self, step: int, texts: Mapping[str, str]) -> list[int]:
        """In process 0: writes all but the arrays; [step], or [] where it is saved already."""
        for number, reason in self._aside.items():
            path = layout.step_path(self._directory, number)
            target = self._directory / f"{reason}-{path.name}"
            if target.exists():
                layout.drop(target)
            if path.exists():
                path.rename(target)
        self._aside = {}
        if step in self.steps():
            return []
        path = self._temporary(step)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        for name, text in texts.items():
            if not re.fullmatch(r"(?!manifest|arrays)\w[\w.-]*", name):
                raise CheckpointError(f"{name!r} cannot name a file of a checkpoint: rename it")
            files.write_text(path / name, text)
        return [step]

    def _temporary(self, step: int) -> pathlib.Path:
        return self._directory / f"{layout.TEMPORARY}{step:08d}"

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        """The error to raise; removes what was written, which may be what fills the disk."""
        if jax.process_index() == 0:
            shutil.rmtree(self._temporary(step), ignore_errors=True)
        return layout.explain(
            error, f"could not save the checkpoint of step {step} in {self._directory}"
        )

    def _finish(self, step: int) -> None:
        """In the background: waits for the arrays and makes them a checkpoint."""
        try:
            self._orbax.wait_until_finished()
            self._commit(step)
        except Exception as error:
            raise self._failed(step, error) from error
        self.committed = step

    def _commit(self, step: int) -> None:
        failure: Exception | None = None
        for phase in (self._hash_share, self._publish):
            try:
                if failure is None:
                    phase(step)
            except Exception as error:  # the others must not be left waiting at the barrier
                failure = error
                if jax.process_count() > 1:  # said now: the others may end this process first
                    self._tell(
                        f"process {jax.process_index()}: {layout.explain(error, f'step {step} failed')}"
                    )
            key = f"scaling-checkpoint:{step}:{next(_BARRIERS)}"
            ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=SAVE_SECONDS * 1000)
        if failure is not None:
            raise failure
        final = layout.step_path(self._directory, step)
        if not final.is_dir():
            raise CheckpointError(f"process 0 could not finish {final}; its output says why")

    def _hash_share(self, step: int) -> None:
        """Every process hashes its share of the files, and flushes them to disk."""
        path, index = self._temporary(step), jax.process_index()
        names = layout.stored_files(path)[index :: jax.process_count()]
        files.write_json(path / f"manifest.part{index}", layout.digest(path, names, sync=True))

    def _publish(self, step: int) -> None:
        """Process 0 joins the hashes, renames the directory, and deletes what is not kept."""
        if jax.process_index() != 0:
            return
        path = self._temporary(step)
        names = layout.stored_files(path)
        hashes: dict[str, list[Any]] = {}
        for part in [path / f"manifest.part{i}" for i in range(jax.process_count())]:
            hashes |= files.read_json(part)
            part.unlink()
        # On a network file system another process may not have seen all of them.
        hashes |= layout.digest(path, [name for name in names if name not in hashes], sync=True)
        layout.write_manifest(path, {name: hashes[name] for name in names})
        for folder in [path, *(p for p in path.rglob("*") if p.is_dir())]:
            files.sync_directory(folder)
        path.rename(layout.step_path(self._directory, step))
        files.sync_directory(self._directory)
        self.committed = step
        try:
            self._prune()
        except OSError as error:  # must not end a run that has saved
            self._tell(f"an old checkpoint could not be deleted, which is tried again: {error}")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody may be reading any more
            self._say(text)

    def _prune(self) -> None:
        """Deletes all but the newest, the best and `keep_steps`; of those set aside the newest."""
        steps = self.steps()
        scores = {step: self._score(step) for step in (steps if self._keep_best else [])}
        # Of equal scores the later step is the better one.
        ranked = sorted((s for s in scores if scores[s] < np.inf), key=lambda s: (scores[s], -s))
        kept = {*steps[-self._keep_last :], *ranked[: self._keep_best]} | self._keep_steps
        old = [layout.step_path(self._directory, step) for step in steps if step not in kept]
        aside = [p for reason in _ASIDE for p in self._directory.glob(f"{reason}-*")]
        aside.sort(key=lambda path: path.stat().st_mtime)
        for path in [*old, *aside[: -self._keep_last]]:
            layout.drop(path)

    def _score(self, step: int) -> float:
        """What ranks a checkpoint, smaller is better; infinite where nothing can."""
        try:
            metrics = files.read_json(layout.step_path(self._directory, step) / layout.METRICS)
        except (OSError, ValueError):  # damaged; no reason to fail the save of another step
            return np.inf
        value = metrics.get(self._best_metric)
        if not isinstance(value, int | float) or value != value:
            return np.inf
        return value if self._best_mode == "min" else -value

    # --- states ------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Finished checkpoints, ascending, whole or not."""
        return layout.find_steps(self._directory)

    def agreed(self) -> list[int]:
        """Process 0's `steps`, as shared file systems may show others an older list; all call it."""
        return _from_process_0(self.steps)

    def check(self) -> None:
        """Raises the CheckpointError of a save that failed in the background, at every call.

        The run must stop then, as it can no longer be resumed from where it is.
        """
        if self._saving is not None and self._saving.done():
            self._saving.result()

    def wait(self) -> None:
        """Returns when no save is in flight; CheckpointError if one failed."""
        if self._saving is not None:
            self._saving.result()

    def close(self) -> None:
        """Waits as `wait` and releases the threads; may be called twice."""
        if not self._read_only:
            self._background.shutdown()
            self._orbax.close()
            self._read_only = True
        self.check()

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
        if self._saving is not None:
            concurrent.futures.wait([self._saving])  # it may have failed, and left an earlier one
        available = self.agreed()
        restored, state, notes = layout.find_whole(
            self._directory, available, step, lambda p: reading.read_state(p, like), together=True
        )
        # The run goes on from here: what is newer belongs to a lost future.
        reason = "damaged" if step is None else "abandoned"
        self._aside = {s: reason for s in available if s > restored} | self._aside
        return restored, state, notes


# --- several processes -----------------------------------------------------------------------


def _from_process_0(compute: Callable[[], Sequence[int]]) -> list[int]:
    """What `compute` returns in process 0, in all processes; all of them call this.

    Raises:
      CheckpointError: in the other processes, when `compute` failed in process 0.
      Exception: that failure itself, in process 0.
    """
    if jax.process_count() == 1:
        return list(compute())
    values: list[int] = []
    failure: Exception | None = None
    if jax.process_index() == 0:
        try:
            values = list(compute())
        except Exception as error:
            failure = error
    with jax.transfer_guard("allow"):
        count = np.asarray(-1 if failure else len(values), np.int32)
        size = int(multihost_utils.broadcast_one_to_all(count))
        if size < 0:
            raise failure or CheckpointError("process 0 failed; its output says why")
        padded = np.asarray(values or [0] * size, np.int32)
        return multihost_utils.broadcast_one_to_all(padded).tolist() if size else []


def agreed_source(directory: str | os.PathLike[str], say: Callable[[str], None] = print) -> int:
    """The newest whole step of another run, as process 0 finds it; all processes call it.

    That run may be training: each process would find another step. CheckpointError, in all of them,
    if process 0 finds none.
    """
    return _from_process_0(lambda: [read_info(directory, say=say).step])[0]
