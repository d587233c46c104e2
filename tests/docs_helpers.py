"""Carries out what a page shows: writes its files, runs its python and its commands, in their order.

A fenced block of a page is one of

    ```python title="bigram.py"    a file that the reader writes
    ```python                      statements, run in the page's folder
    ```sh                          commands, one a line
    ```text                        output; not run

All pages are followed in one process with one device, which saves the start of JAX for each command.
Configs of `experiments/` get `SMALL` added. A sweep is not run: the table that it left stands in for it.
"""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator

from helpers import ROOT
from run_helpers import environment

from scaling import cli, configs, plan

FENCE = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
LANGUAGES = ("python", "sh", "text")
TABLE = "experiments/sweeps/isoflop_tiny.csv"
OUTCOME = "outcome.txt"
SMALL = {
    "train.steps": "4",
    "optim.schedule.warmup_steps": "1",
    "model.num_layers": "1",
    "model.model_dim": "32",
    "eval.batch_size": "64",
    "data.source.max_bytes": "200000",
}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is, if it is one, and its text."""

    language: str
    title: str | None
    text: str


def blocks(page: pathlib.Path) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(**match.groupdict()) for match in FENCE.finditer(page.read_text("utf-8"))]


def commands(page: pathlib.Path) -> list[str]:
    """The command lines of a page, continued lines joined, without comments."""
    text = "".join(block.text for block in blocks(page) if block.language == "sh")
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class Reader:
    """Someone who follows a page word for word, in a folder of their own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.names: dict[str, object] = {"__name__": "page"}
        self.background: list[subprocess.Popen[bytes]] = []
        for name in ("experiments", "tests"):
            (folder / name).symlink_to(ROOT / name)

    def follow(self, page: pathlib.Path) -> None:
        """Carries out every block of a page."""
        with _inside(self.folder):
            for block in blocks(page):
                if block.title:
                    (self.folder / block.title).write_text(block.text)
                elif block.language == "python":
                    exec(compile(block.text, page.name, "exec"), self.names)
                elif block.language == "sh":
                    for line in block.text.replace("\\\n", " ").splitlines():
                        self.command(line)
        for process in self.background:
            assert process.wait(timeout=120) == 0

    def command(self, line: str) -> None:
        """Runs one command line; others' tests run what `ELSEWHERE` lists."""
        words = shlex.split(line, comments=True)
        if not words or any(line.startswith(start) for start in ELSEWHERE):
            return
        if "scripts/tpu/" in line:
            self._without_cloud(line)
            return
        if words[:2] == ["python", "-m"]:
            main, argv = importlib.import_module(words[2]).main, adapted(words[3:])
        elif words[0] == "scaling":
            main, argv = cli.main, [words[1], *adapted(words[2:])]
        else:
            raise AssertionError(f"teach this test how to run: {line}")
        if "--topology=v" in line:  # minutes; see `test_plans_for_tpus`
            flags, overrides = cli.read(argv, plan.OPTIONS)
            configs.load_resolved(flags["config"], overrides)
            return
        if "--process_id" in line:
            self._process(words[:3] + [word for word in argv if word != "&"], words[-1] == "&")
            return
        assert main(argv) == 0, line

    def _without_cloud(self, line: str) -> None:
        """Runs a line of shell with stand-ins for the programs that would reach out."""
        bin_ = self.folder / "bin"
        bin_.mkdir(exist_ok=True)
        for name in ("gcloud", "git"):
            (bin_ / name).write_text('#!/bin/sh\necho "$(basename "$0")" "$@"\n')
            (bin_ / name).chmod(0o755)
        env = environment(PATH=f"{bin_}:{os.environ['PATH']}")
        done = subprocess.run(
            ["bash", "-c", line], env=env, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "gcloud compute tpus" in done.stdout.replace("--project=my-project ", ""), line

    def _process(self, words: list[str], background: bool) -> None:
        words = [sys.executable, *words[1:]]
        process = subprocess.Popen(words, env=environment(), cwd=self.folder)
        self.background.append(process)
        if not background:
            assert process.wait(timeout=120) == 0


# Command lines that tests of their own run: beginning -> where.
ELSEWHERE = {
    "./scripts/": "tests/docs/test_readme.py",
    "pip install": "tests/docs/test_readme.py",
    "python scripts/bench/": "tests/docs/test_pages.py",
    "python -m scaling.doctor": "tests/docs/test_readme.py",
    "scaling doctor": "tests/docs/test_readme.py",
}


def adapted(argv: list[str]) -> list[str]:
    """A command's arguments, made small."""
    if any(word.startswith("--sweep=") for word in argv):
        return argv if "--dry_run" in argv else [*argv, "--dry_run"]
    argv = [re.sub(r"^--runs=runs/isoflop$", f"--runs={TABLE}", word) for word in argv]
    if any(word.startswith("--law=") for word in argv):
        return [*argv, "--bootstrap=20", "--profiles=no"]
    if "--search" in argv or any(word.startswith("--topology=v") for word in argv):
        return [*argv, "--config.model.num_layers=1"]
    config = next((word.partition("=")[2] for word in argv if word.startswith("--config=")), None)
    if config is None or "--dry_run" in argv:
        return argv
    if not config.startswith("experiments/"):  # the page's own: small as it is, or a quickstart
        if "quickstart" not in pathlib.Path(config).read_text():
            return argv
        config = "experiments/quickstart.py"
    given = {word.partition("=")[0].removeprefix("--config.") for word in argv}
    given -= {"optim"}  # another rule keeps the schedule
    fits = {
        key: value
        for key, value in SMALL.items()
        if not any(key.startswith(f"{one}.") or key == f"{one}.name" for one in given)
        and ("max_bytes" not in key or "quickstart" in config)
        and ("zipf" not in config or key == "train.steps")
    }
    kept = [word for word in argv if word.partition("=")[0].removeprefix("--config.") not in fits]
    return kept + [f"--config.{key}={value}" for key, value in fits.items()]


@contextlib.contextmanager
def _inside(folder: pathlib.Path) -> Iterator[None]:
    """In this folder, with its modules importable; they are forgotten afterwards."""
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def main(folder: str, *pages: str) -> None:
    """Follows pages one after another, and writes OUTCOME for each: nothing, or the traceback."""
    for number, page in enumerate(pages):
        place = pathlib.Path(folder, str(number))
        place.mkdir()
        start, cpu, problem = time.monotonic(), time.process_time(), ""
        try:
            Reader(place).follow(pathlib.Path(page).absolute())
        except BaseException:
            problem = traceback.format_exc()
        spent = f"{time.monotonic() - start:.1f} s, CPU {time.process_time() - cpu:.1f} s"
        print(f"{spent}: {page}", flush=True)
        (place / OUTCOME).write_text(problem)


if __name__ == "__main__":
    main(*sys.argv[1:])
