"""`scaling COMMAND`: the front doors under one name, and what each says to a wrong command line."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from scaling.cli import COMMANDS, main

CONFIG = "--config=experiments/quickstart.py"
PLAN = ("plan", CONFIG, "--topology=cpu-8")
FIT = ("fit", "--runs=x.csv", "--law=chinchilla", "--out=x")

# A wrong command line of each door, and what the message names: the value and the remedy.
WRONG = [
    (("run", CONFIG, "--no_such_flag=3"), "--no_such_flag", "the flags are"),
    (("run", CONFIG, "config.train.steps=3"), "config.train.steps", "write --config.train.steps=3"),
    (("run", CONFIG, "--train.steps=3"), "--train.steps", "did you mean --config.train.steps=3?"),
    (("run", CONFIG, "--config.train.stpes=3"), "train.stpes", "did you mean train.steps?"),
    (("run", CONFIG, "--config.train.steps=many"), "'many'", "give an integer >= 1"),
    (("run", CONFIG, "--config.train.steps=0"), "0 is out of range", "give a value >= 1"),
    (("run", CONFIG, "--config.optim.name=adamv"), "'adamv'", "did you mean 'adamw'"),
    (("run", "--config=experiments/quickstrat.py"), "quickstrat.py", "mean experiments/quickstart.py"),
    (("run", "--replay=x", "--step=-3"), "-3 is out of range", "give a value >= 0"),
    (("run", CONFIG, "--workdir=s3://b/r"), "s3://b/r is a URL", "mount the bucket"),
    (("run", CONFIG, "--config.data.cache_dir=gs://b"), "gs://b is a URL", "mount the bucket"),
    (("run", CONFIG, "--config.data.source=files", "--config.data.source.paths=('hf://a/b.txt',)"),
     "hf://a/b.txt is a URL", "mount the bucket"),
    (("run", "--evaluate=gs://b/r"), "gs://b/r is a URL", "mount the bucket"),
    (("sweep", "--sweep=a.py", "--workdir=gs://b/r"), "gs://b/r is a URL", "mount the bucket"),
    ((*PLAN, "--json=s3://b/plan.json"), "s3://b/plan.json is a URL", "mount the bucket"),
    (("fit", "--runs=s3://b/t.csv", "--law=chinchilla", "--out=x"), "is a URL", "mount the bucket"),
    (("run", CONFIG, "--workdir=~nobody_here/r"), "~nobody_here/r cannot be found", "./~nobody_here"),
    (("sweep", "--no_such_flag=3"), "--no_such_flag", "the flags are"),
    (("sweep", "--sweep=experiments/sweeps/isoflop.py"), "isoflop.py", "mean experiments/sweeps/iso"),
    (("sweep", "--sweep=a.py", "--workers=many"), "'many'", "give an integer >= 0"),
    (("plan", "--no_such_flag=3"), "--no_such_flag", "the flags are"),
    ((*PLAN, "train.steps=3"), "train.steps", "did you mean --config.train.steps=3?"),
    ((*PLAN, "--config.train.steps=many"), "'many'", "give an integer >= 1"),
    ((*PLAN, "--slices=0"), "0 is out of range", "give a value >= 1"),
    ((*PLAN, "--price=cheap"), "'cheap'", "give a number > 0"),
    ((*PLAN, "--effort=great"), "'great'", "default, least"),
    ((*PLAN, "--hardware=flop=1"), "'flop'", "write --hardware=KEY=VALUE,..."),
    (("plan", CONFIG, "--topology=v5e-9"), "v5e-9", "v5e-8"),
    (("fit", "--no_such_flag=3"), "--no_such_flag", "the flags are"),
    (("fit", "runs=x.csv"), "runs", "write --runs=x.csv"),
    ((*FIT, "--bootstrap=many"), "'many'", "give an integer >= 0"),
    ((*FIT, "--level=2"), "2 is out of range", "give a value < 1.0"),
    (("doctor", "--no_such_flag=3"), "--no_such_flag", "the flags are"),
    (("doctor", "--timeout=soon"), "'soon'", "give a number > 0"),
    (("doctor", "--timeout=0"), "0 is out of range", "give a value > 0"),
]  # fmt: skip


@pytest.fixture(scope="module")
def answers() -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of all wrong command lines, from one process without a backend."""
    code = (
        "import contextlib, io, json, sys; from scaling.cli import main\n"
        "answers = []\n"
        "for argv in json.load(sys.stdin):\n"
        "    out, error = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):\n"
        "        code = main(argv)\n"
        "    answers.append((code, out.getvalue(), error.getvalue()))\n"
        "from jax._src import xla_bridge; assert not xla_bridge._backends\n"
        "print(json.dumps(answers))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps([argv for argv, *_ in WRONG]), text=True,
        env={**os.environ, "JAX_PLATFORMS": "no_such_platform"}, cwd=ROOT, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", range(len(WRONG)), ids=lambda i: " ".join(WRONG[i][0][-2:]))
def test_a_wrong_command_line_is_exit_2_with_the_value_and_the_remedy(case, answers) -> None:
    _, value, remedy = WRONG[case]
    code, out, error = answers[case]
    assert code == 2, error
    assert error.startswith("error: ")
    assert value in error.splitlines()[0]
    assert remedy in error.split("\n", 1)[1]
    assert "Traceback" not in error
    assert not out


def test_every_command_has_a_wrong_command_line() -> None:
    assert {argv[0] for argv, *_ in WRONG} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_help_of_its_module(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert not stopped.value.code
    shown = capsys.readouterr().out
    assert f"python -m {COMMANDS[command][0]}" in shown
    assert max(map(len, shown.splitlines())) <= 105


def test_help_lists_the_commands_and_a_wrong_one_is_told_the_right_one(capsys) -> None:
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert main(["swep"]) == 2
    assert "did you mean sweep?" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As `head` in `scaling run --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "scaling.main", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
