"""The small rows of experiments/README.md: each is made by its command, and comes out as it says."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from helpers import ROOT, shared
from run_helpers import environment

# config -> (where its data are, the metric of summary.json, how far a run may be from the row). Three
# standard errors of the held-out examples or more: another machine rounds, and so trains, differently.
HELD = {
    "mnist.py:cnn": ("", "accuracy", 0.3),
    "mnist.py:mlp": ("", "accuracy", 0.4),
    "text.py:trec,kim": ("data/trec", "accuracy", 4.2),
    "text.py:trec,encoder": ("data/trec", "accuracy", 4.3),
    "text.py:banking77,kim": ("data/banking77", "accuracy", 2.0),
    "text.py:sst2,kim": ("data/sst2", "accuracy", 3.0),
}


def rows():
    """{config: cells} of the table; a config that stands there twice by its first row."""
    lines = (ROOT / "experiments" / "README.md").read_text("utf-8").splitlines()
    table = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:2] == "| "]
    head, *body = table
    made = {}
    for cells in body:
        row = dict(zip(head, cells, strict=True))
        made.setdefault(row["config"].strip("`"), row)
    return made


def test_each_row_gives_the_command_of_its_config():
    table = rows()
    assert set(HELD) <= set(table)
    for config, row in table.items():
        file = config.partition(":")[0]
        assert (ROOT / "experiments" / file).exists(), config
        assert f"--config=experiments/{config}" in row["command"]


@pytest.mark.slow
@pytest.mark.parametrize("config", HELD)
def test_a_small_row_comes_out_again(config: str, tmp_path: pathlib.Path) -> None:
    place, metric, distance = HELD[config]
    row = rows()[config]
    command = row["command"].strip("`").replace("FOLDER", str(shared(place)) if place else "")
    arguments = [word for word in shlex.split(command)[1:] if not word.startswith("--workdir")]
    environ = environment(TFDS_DATA_DIR=str(shared("tensorflow_datasets")))
    arguments += [f"--workdir={tmp_path / 'run'}", f"--config.data.cache_dir={tmp_path / 'cache'}"]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environ, check=True, timeout=3600)
    came = json.loads((tmp_path / "run" / "summary.json").read_text())["eval"][metric]
    number = re.search(r"([\d.]+) %", row["metric"])
    assert number is not None
    assert 100 * came == pytest.approx(float(number[1]), abs=distance)
