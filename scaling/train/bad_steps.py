"""Steps that went wrong: what is recorded of them, and which batches are left out since.

Everything lies in the run directory (`bad_steps/`), so that a resumed run leaves out the same
batches, and `--replay` can reproduce the step long after.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.track import files


class DivergedError(Exception):
    """The run ended because of bad steps; `str()` says which and what to do."""


class RollbackError(Exception):
    """A bad step is to be left out: return to the last checkpoint before `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"roll back to before step {step}")
        self.step = step


class BadSteps:
    """The record of a run's bad steps, and the policy that follows one."""

    def __init__(self, directory: pathlib.Path, policy: str, limit: int, writes: bool) -> None:
        self.directory, self.policy, self.limit, self.writes = directory, policy, limit, writes
        records = self.records()
        self.steps = {record["step"] for record in records}
        self.left_out = {r["step"] for r in records if r["policy"] == "rollback"}

    def records(self) -> list[dict[str, Any]]:
        """All records so far, by step."""
        paths = sorted(self.directory.glob("step_*.json")) if self.directory.exists() else []
        return [files.read_json(path) for path in paths]

    def report(self, step: int, metrics: Mapping[str, Any], ids: np.ndarray) -> str:
        """Records a bad step (from 1), with the example ids of its batch; carries out the policy.

        Returns:
          A sentence for the log, when the run goes on (policy `skip`).

        Raises:
          DivergedError: the policy is `stop`, or there were too many.
          RollbackError: the policy is `rollback`.
        """
        loss = float(metrics.get("loss", metrics["objective"]))
        norm = float(metrics["grad_norm"])
        record = {
            "step": step,
            "policy": self.policy,
            "loss": repr(loss),
            "grad_norm": repr(norm),
            "example_ids": [int(i) for i in ids],
            "replay": f"python -m scaling.main --replay={self.directory.parent} --step={step}",
        }
        if self.writes:
            files.write_json(self.directory / f"step_{step:08d}.json", record)
        what = (
            f"step {step} is bad: loss {loss:.6g}, gradient norm {norm:.6g}; "
            f"its update was not applied. Recorded in "
            f"{self.directory}; reproduce it with: {record['replay']}"
        )
        self.steps.add(step)
        if self.policy == "stop":
            raise DivergedError(
                f"{what}. To go past it, start again in another --workdir with "
                "--config.train.on_bad_step=skip or rollback"
            )
        if len(self.steps) > self.limit:
            raise DivergedError(f"{what}. More than train.max_bad_steps={self.limit} bad steps")
        if self.policy == "rollback":
            self.left_out.add(step)
            raise RollbackError(step)
        return what
