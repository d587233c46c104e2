"""A convolutional network killed and resumed: its batch statistics come back bit for bit."""

import pathlib
import sys

import numpy as np
import pytest
from helpers import ROOT, shared
from run_helpers import kill, last_step, run, saving, start, stream, summary, wait_until

from scaling.train.checkpoints import read_info

# The shipped config with fewer images, channels and steps, and saved often.
SMALL = {
    "data.source.split": "train[:2000]",
    "data.source.eval_split": "test[:500]",
    "model.channels": "(4,8)",
    "model.batch_norm_group": 8,
    "train.steps": 120,
    "train.batch_size": 16,
    "optim.schedule.warmup_steps": 5,
    "eval.every": 40,
    "eval.batches": 1,
    "checkpoint.every": 10,
    "track.every": 1,
    "track.tensorboard": False,
    "track.progress": "lines",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("images")


def command(folder: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    more = SMALL | {
        "data.source.data_dir": shared("tensorflow_datasets"),
        "data.cache_dir": folder / "cache",
    }
    return [
        *(sys.executable, "-m", "scaling.main", f"--config={ROOT}/experiments/mnist.py:cnn"),
        *(f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in more.items())),
    ]


def arrays_by_path(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    info = read_info(workdir)
    return info.read_arrays(dict.fromkeys(info.leaves))


@pytest.mark.slow
def test_killed_in_a_save_and_resumed_is_the_uninterrupted_run(folder: pathlib.Path) -> None:
    whole, killed = folder / "whole", folder / "killed"
    run(command(folder, whole))
    log = killed.with_suffix(".log")
    process = start(command(folder, killed), log)
    assert wait_until(lambda: last_step(killed) >= 45, process, 120), log.read_text()
    assert wait_until(lambda: saving(killed), process, 60), log.read_text()
    kill(process)
    assert "resuming at step" in run(command(folder, killed))

    assert stream(killed) == stream(whole)
    assert summary(killed)["eval"] == summary(whole)["eval"]
    ends = [arrays_by_path(workdir) for workdir in (whole, killed)]
    assert any("batch_stats" in path for path in ends[0])
    assert ends[0].keys() == ends[1].keys()
    for path, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][path], err_msg=path)
