"""What a run lacks is said when it is opened."""

import pathlib

import pytest

from scaling.train.reopen import OpenRun, ReopenError


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (None, "has no checkpoint: the run has not saved one yet"),
        (7, "has no checkpoint of step 7: the run has not saved one yet"),
    ],
)
def test_a_run_without_checkpoints(tmp_path: pathlib.Path, step: int | None, message: str) -> None:
    run = OpenRun(tmp_path, None, None, None, {})  # type: ignore[arg-type]
    with pytest.raises(ReopenError, match=message):
        run.checkpoint(step)
