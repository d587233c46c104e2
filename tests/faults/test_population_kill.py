"""A population killed anywhere, started again: every member's stream is the uninterrupted one."""

import json
import pathlib
import random
import sys
import time

import pytest
from run_helpers import (
    TINY,
    corpus,
    kill,
    last_step,
    run,
    saving,
    start,
    stream,
    summary,
    wait_until,
)

DRIVER = """\
import json, pathlib, sys
from scaling import configs
from scaling.train.population import run_population
spec, folder, members = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
loaded = [configs.load_resolved(spec, one) for one in members.values()]
statuses = run_population(loaded, [folder / name for name in members])
sys.exit(statuses != ["completed"] * len(members))
"""
COMMON = ["train.steps=200", "track.progress=off"]
MEMBERS = {
    "plain": COMMON,
    "seed": [*COMMON, "seed=1"],
    "rate": [*COMMON, "optim.learning_rate=0.003"],
}


def driver(text: pathlib.Path, folder: pathlib.Path) -> list[str]:
    return [sys.executable, "-c", DRIVER, f"{TINY}:{text}", str(folder), json.dumps(MEMBERS)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_members_are_bit_equal_after_kills(tmp_path):
    text, chance = corpus(tmp_path), random.Random(3)
    run(driver(text, tmp_path / "whole"))
    folder, log = tmp_path / "killed", tmp_path / "log"
    for i in range(6):
        process = start(driver(text, folder), log)
        goal = last_step(folder / "plain") + chance.randint(1, 25)
        assert wait_until(lambda goal=goal: last_step(folder / "plain") >= goal, process, 200)
        if i % 2:  # between the saves of two members, so that they go on from different steps
            assert wait_until(lambda: saving(folder / "seed"), process, 60)
            time.sleep(chance.random() * 0.02)
        kill(process)
    run(driver(text, folder))
    for name in MEMBERS:
        assert stream(folder / name) == stream(tmp_path / "whole" / name)
        assert summary(folder / name)["status"] == "completed"
    assert (folder / "plain" / "superseded.jsonl").exists(), "no kill cost anything"
