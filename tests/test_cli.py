import pathlib
import subprocess
import sys
from typing import Any

import pytest

from scaling import cli
from scaling.configs import ConfigError


def given_by(*argv: str) -> dict[str, Any]:
    """The flags of a command line, with their values."""
    return cli.parse(argv)[1]


def test_a_full_command_line() -> None:
    found = cli.parse(
        ["--config=a.py:x", "--workdir", "dir", "--config.b.c=1", "--config.d", "-2", "--dry_run"]
    )
    values = {"config": "a.py:x", "workdir": "dir", "dry_run": True}
    assert found == ("config", values, ("b.c=1", "d=-2"))


def test_a_home_is_expanded_where_a_flag_names_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves the `~` of `--workdir=~/x` as it is, and a folder of that name would be made."""
    monkeypatch.setenv("HOME", "/home/me")
    given = given_by("--config=~/a.py:~/b.txt", "--workdir=~/runs")
    assert given == {"config": "/home/me/a.py:~/b.txt", "workdir": "/home/me/runs"}
    assert given_by("--diff", "~/a", "~/b")["diff"] == ("/home/me/a", "/home/me/b")
    assert given_by("--sample=r", "--prompt=~/a")["prompt"] == "~/a"


def test_several_processes() -> None:
    found = given_by(
        "--config=a.py", "--coordinator=host:80", "--num_processes=2", "--process_id=0"
    )
    assert [found[flag] for flag in cli.PROCESS_FLAGS] == ["host:80", 2, 0]


def test_other_jobs() -> None:
    assert cli.parse(["--diff", "a", "b"]) == ("diff", {"diff": ("a", "b")}, ())
    found = cli.parse(["--replay=run", "--step=12"])
    assert found == ("replay", {"replay": "run", "step": 12}, ())


def test_switches_and_repeated_flags() -> None:
    assert not given_by("--config=a.py", "--dry_run=false")["dry_run"]
    assert given_by("--config=a.py", "--config=a.py") == {"config": "a.py"}


@pytest.mark.parametrize(
    ("argv", "key", "words"),
    [
        ("config.lr=5", "config.lr", "write --config.lr=5"),
        ("-config.lr=5", "config.lr", "write --config.lr=5"),
        ("\N{EM DASH}config.lr=5", "config.lr", "write --config.lr=5"),
        ("config=a.py", "config", "write --config=a.py"),
        ("--train.steps=5", "--train.steps", "did you mean --config.train.steps=5"),
        ("train.steps=5", "train.steps", "did you mean --config.train.steps=5"),
        ("--confg.train.steps=5", "--confg.train.steps", "did you mean --config.train.steps=5"),
        ("--seed=5", "--seed", "did you mean --config.seed=5"),
        ("--worrkdir=x", "--worrkdir", "did you mean --workdir"),
        ("-workdir=x", "workdir", "write --workdir=x"),
        ("--dry-run", "--dry-run", "did you mean --dry_run"),
        ("--qqqq", "--qqqq", "the flags are"),
        ("stray", "stray", "the flags are"),
        ("--", "--", "the flags are"),
        ("", "", "the flags are"),
        ("--config", "--config", "lacks a value"),
        ("--config=", "--config", "is empty"),
        ("--config=a.py --workdir", "--workdir", "lacks a value"),
        ("--config=a.py --workdir --dry_run", "--workdir", "lacks a value"),
        ("--config=a.py --workdir=a --workdir=b", "--workdir", "given twice"),
        ("--config=a.py --dry_run=maybe", "--dry_run", "not true or false"),
        ("--config=a.py --config.a", "--config.a", "lacks a value"),
        ("--workdir=a", "--config", "is required"),
        ("--config=a.py --diff a b", "--diff", "does not go with --config"),
        ("--diff a", "--diff", "lacks a value"),
        ("--diff a b --workdir=c", "--workdir", "does not go with --diff"),
        ("--diff a b --config.x=1", "--config.x=1", "does not go with --diff"),
        ("--replay=a", "--step", "is required"),
        ("--replay=a --step=x", "--step", "not an integer"),
        ("--replay=a --step=-1", "--step", "-1 is out of range\n  give a value >= 0"),
        ("--sample=a --tokens=0", "--tokens", "0 is out of range\n  give a value >= 1"),
        ("--sample=a --temperature=hot", "--temperature", "'hot' is not a number >= 0"),
        ("--config=a.py --step=1", "--step", "does not go with --config"),
        ("--config=a.py --num_processes=2", "--coordinator", "is required"),
        (
            "--config=a.py --coordinator=host --num_processes=2 --process_id=0",
            "--coordinator",
            "HOST:PORT",
        ),
        (
            "--config=a.py --coordinator=h:1 --num_processes=2 --process_id=2",
            "--process_id",
            "give 0 to 1",
        ),
        (
            "--config=a.py --coordinator=h:1 --num_processes=0 --process_id=0",
            "--num_processes",
            "give a value >= 1",
        ),
    ],
)
def test_wrong_command_lines_are_refused(argv: str, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.parse(argv.split(" "))
    assert caught.value.key == key
    assert words in str(caught.value)


def test_experiments_are_listed_where_none_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"mine\.py"):
        cli.parse([])


def test_run_reports_on_stderr_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def door(argv: object) -> int:
        raise ConfigError("a.b", "is wrong", "mend it")

    assert cli.run(door, []) == 2
    assert capsys.readouterr().err == "error: a.b: is wrong\n  mend it\n"
    assert cli.run(lambda argv: 75, []) == 75


def test_a_door_of_its_own_takes_no_overrides() -> None:
    options = (cli.Option("out", "Where to.", "DIR"),)
    assert cli.read(["--out=a"], options) == ({"out": "a"}, ())
    with pytest.raises(ConfigError, match="there is no such flag"):
        cli.read(["--config.a=1"], options)


def test_help_shows_every_flag_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.parse(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{option.flag}" in text for option in cli.OPTIONS)
    assert "python -m scaling.main --config=experiments/quickstart.py" in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_comes_without_jax_and_in_under_half_a_second() -> None:
    """Of processor time, the best of three: other work on the machine is not what is measured."""
    code = (
        "import sys, time; from scaling import cli\n"
        "try: cli.parse(['--help'])\n"
        "finally:\n"
        "    slow = {'jax', 'flax', 'numpy'} & set(sys.modules)\n"
        "    assert not slow, f'{slow} is imported'\n"
        "    print(time.process_time(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(3)]
    assert min(float(run.stderr) for run in runs) < 0.5


def test_the_console_command_finds_components_that_lie_here(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/usr/bin", *sys.path[1:]])  # as an entry point starts
    monkeypatch.setattr(sys, "argv", ["scaling", "--help"])
    assert cli.main() == 0
    assert sys.path[0] == str(tmp_path)
