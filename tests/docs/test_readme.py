"""What the README says of installing and testing, and the commands of the config docstrings."""

import ast
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
from docs_helpers import SMALL, commands
from helpers import ROOT
from run_helpers import environment

from scaling import cli, configs

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(words: list[str], **env: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment(1, **env), cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made_by_the_scripts() -> bool:
    return (pathlib.Path(sys.prefix) / ".installed").exists()


@pytest.mark.skipif(not made_by_the_scripts(), reason="this environment is not of scripts/setup.sh")
def test_the_two_scripts(tmp_path):
    env = {"VENV": sys.prefix}
    small = [f"--config.{key}={value}" for key, value in SMALL.items()]
    words = ["./scripts/run", f"--workdir={tmp_path}/quickstart", *small]
    assert "completed at step 4" in run(words, **env)
    again = run(words, **env)
    assert "already completed" in again
    assert "Installing" not in again
    listed = run(
        ["./scripts/test", "-n", "0", "tests/docs/test_readme.py", "--collect-only"], **env
    )
    assert "tests/docs/test_readme.py" in listed


def installs() -> set[str]:
    """Every `pip install` of the pages: what is given to pip."""
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    return set(re.findall(r"pip install '?(\.(?:\[[a-z,]+\])?)'?", text))


def test_the_extras_that_are_named_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {extra for one in installs() for extra in re.findall(r"[a-z]+", one)}
    assert named
    assert named <= set(project["optional-dependencies"])


@pytest.mark.slow
def test_an_installed_package_is_whole(tmp_path):
    """Without the checkout on the path; the packages that it needs are those of this environment."""
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(ROOT / "scaling", source / "scaling")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"--target={target}"]
    run([*pip, str(source)])
    code = "import pkgutil, scaling\nfor m in pkgutil.walk_packages(scaling.__path__, 'scaling.'):"
    code += "\n    m.name.endswith('__main__') or __import__(m.name)\nprint(scaling.__file__)"
    assert str(target) in subprocess.check_output(
        [sys.executable, "-c", code],
        text=True,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(target)),
    )


def test_benchmarks_that_are_named_exist():
    shown = [line for page in PAGES for line in commands(page) if "scripts/bench/" in line]
    assert shown
    for line in shown:
        assert (ROOT / line.split()[1]).exists(), line


def test_doctor_command():
    done = subprocess.run(
        [sys.executable, "-m", "scaling", "doctor"], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=120,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr  # 1 is advice about this machine
    assert "jax" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda p: p.name)
def test_config_docstrings_give_commands_that_parse(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = re.findall(r"^\s+python -m scaling\.main ((?:[^\n\\]|\\\n)*)$", text, re.MULTILINE)
    assert lines, f"{path.name} does not say how to run it"
    for line in lines:
        _, values, overrides = cli.parse(shlex.split(line.replace("\\\n", " ")))
        configs.load_resolved(values["config"], overrides)


def test_shakespeare_without_its_text_says_where_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = f"{ROOT / 'experiments' / 'shakespeare.py'}"
    configs.load_resolved(config)
    assert "char-rnn" in capsys.readouterr().err
    (tmp_path / "shakespeare.txt").write_text("First Citizen")
    configs.load_resolved(config)
    assert not capsys.readouterr().err
