"""Follows pages word for word: writes their files, runs their python and their commands, in order.

A fenced block of a page is one of

    ```python title="bigram.py"    a file that the reader writes
    ```python                      statements, run in the reader's folder
    ```sh                          commands, one a line
    ```text                        output; not run

All pages are followed in one folder and one process with one device, so that JAX starts once and a
command that several pages show runs once. Configs of `experiments/` are made small. Of runs that nothing
on their page looks at, only the program is built (`--dry_run`), and of such fits only the arguments are
read, unless everything is asked for. A sweep shows its cells; the table that it left stands in for it.
"""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator

from helpers import ROOT
from run_helpers import environment

from scaling import cli, configs
from scaling.laws import arguments as fit_arguments
from scaling.laws import get_law

FENCE = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
LANGUAGES = ("python", "sh", "text")
OUTCOME = "outcome"
TABLE = "experiments/sweeps/isoflop_tiny.csv"
SMALL = {
    "train.steps": "4",
    "optim.schedule.warmup_steps": "1",
    "model.num_layers": "1",
    "model.model_dim": "32",
    "eval.batch_size": "64",
    "data.source.max_bytes": "200000",
}
# Command lines that other tests run: how they begin.
ELSEWHERE = ("./scripts/", "pip install", "python scripts/bench/", "scaling doctor")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, the name of the file that it is, if it is one, and its text."""

    language: str
    title: str | None
    text: str


def blocks(page: pathlib.Path) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(**match.groupdict()) for match in FENCE.finditer(page.read_text("utf-8"))]


def lines(block: Block) -> list[str]:
    """The commands of a block, continued lines joined, without comments."""
    text = re.sub(r"\\\n\s*", "", block.text)
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def commands(page: pathlib.Path) -> list[str]:
    """The commands of a page."""
    return [line for block in blocks(page) if block.language == "sh" for line in lines(block)]


def arguments(line: str) -> list[str]:
    """Module and arguments of a command, however it is spelled.

    Raises:
      AssertionError: it is no command of this package.
    """
    words = shlex.split(line)
    if words[:2] == ["python", "-m"]:
        return words[2:]
    assert words[0] == "scaling", f"teach this test how to run: {line}"
    return [cli.COMMANDS[words[1]][0], *words[2:]]


def adapted(argv: list[str]) -> list[str]:
    """A command's arguments, made small."""
    flags = {word.partition("=")[0]: word.partition("=")[2] for word in argv}
    if "--sweep" in flags:
        return argv if "--dry_run" in flags else [*argv, "--dry_run"]
    argv = [re.sub(r"^--runs=runs/isoflop$", f"--runs={TABLE}", word) for word in argv]
    if "--law" in flags:
        return [*argv, "--bootstrap=20", "--profiles=no", "--starts=8"]
    if flags.get("--topology", "").startswith("v"):
        return [*argv, "--config.model.num_layers=1"]
    path = flags.get("--config", "").partition(":")[0]
    if not path or "--dry_run" in flags:
        return argv
    if not path.startswith("experiments/"):  # the page's own: small as it is, or a quickstart
        if "quickstart" not in pathlib.Path(path).read_text():
            return argv
        path = "experiments/quickstart.py"
    given = {name.removeprefix("--config.") for name in flags}
    given -= {"optim"}  # another rule keeps the schedule
    small = {
        key: value
        for key, value in SMALL.items()
        if not any(key.startswith(f"{name}.") for name in given)
        and ("quickstart" in path or key == "train.steps")
    }
    kept = [w for w in argv if w.partition("=")[0].removeprefix("--config.") not in small]
    return kept + [f"--config.{key}={value}" for key, value in small.items()]


class Reader:
    """Someone who follows pages in a folder of their own."""

    def __init__(self, folder: pathlib.Path, everything: bool) -> None:
        self.folder, self.everything = folder, everything
        self.done: set[str] = set()
        with socket.socket() as free:  # so that two such tests can run at a time
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        for name in ("experiments", "tests"):
            (folder / name).symlink_to(ROOT / name)

    def follow(self, page: pathlib.Path) -> None:
        """Carries out every block of a page that no page before has carried out."""
        names: dict[str, object] = {"__name__": page.stem}
        before = frozenset(self.done)
        started: list[subprocess.Popen[bytes]] = []
        with _inside(self.folder):
            for block in blocks(page):
                if block.title:
                    pathlib.Path(block.title).write_text(block.text)
                elif block.language == "python":
                    exec(compile(block.text, page.name, "exec"), names)
                elif block.language == "sh":
                    for line in lines(block):
                        start = time.process_time()
                        self._command(line, page, before, started)
                        print(f"{time.process_time() - start:.1f} s of CPU: {line}", flush=True)
        try:
            assert [process.wait(timeout=300) for process in started] == [0] * len(started)
        finally:
            for process in started:
                process.kill()

    def _command(
        self,
        line: str,
        page: pathlib.Path,
        before: frozenset[str],
        started: list[subprocess.Popen[bytes]],
    ) -> None:
        if line.startswith(ELSEWHERE):
            return
        if "scripts/tpu/" in line:
            self._without_cloud(line)
            return
        argv = arguments(line)
        if str(argv) in before and commands(page).count(line) == 1:
            return
        self.done.add(str(argv))
        module, *argv = argv
        if any(word.startswith("--topology=v") for word in argv):  # minutes: tests of their own
            (config,) = [w.partition("=")[2] for w in argv if w.startswith("--config=")]
            prefix = "--config."
            configs.load_resolved(
                config, [w.removeprefix(prefix) for w in argv if w.startswith(prefix)]
            )
        elif "--process_id" in line and not self.everything:  # tests/faults runs such processes
            cli.parse([word for word in argv if word != "&"])
        elif "--process_id" in line:
            argv = [re.sub(r"(?<=127\.0\.0\.1:)\d+", self.port, word) for word in argv]
            words = [sys.executable, "-m", module, *(w for w in adapted(argv) if w != "&")]
            started.append(subprocess.Popen(words, env=environment(), cwd=self.folder))
        elif module == "scaling.fit" and not self._wanted(argv, "--out", page):
            get_law(fit_arguments.parse(argv).law)
        else:
            built = module == "scaling.main" and not self._wanted(argv, "--workdir", page)
            extra = ["--dry_run"] if built and "--dry_run" not in argv else []
            try:
                code = importlib.import_module(module).main(adapted([*argv, *extra]))
            except SystemExit as end:  # --help
                code = end.code
            assert code == 0, line

    def _wanted(self, argv: list[str], flag: str, page: pathlib.Path) -> bool:
        """Whether something on the page looks at what a command writes, or it writes nothing."""
        written = [w.partition("=")[2] for w in argv if w.startswith(f"{flag}=")]
        text = page.read_text("utf-8")
        reads = not any(word.startswith(("--config=", "--runs=")) for word in argv)
        return self.everything or reads or any(text.count(path) > 1 for path in written)

    def _without_cloud(self, line: str) -> None:
        """Runs a line of shell with stand-ins for the programs that would reach out."""
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        for name in ("gcloud", "git"):
            (programs / name).write_text('#!/bin/sh\necho "$(basename "$0")" "$@"\n')
            (programs / name).chmod(0o755)
        env = environment(PATH=f"{programs}:{os.environ['PATH']}")
        done = subprocess.run(
            ["bash", "-c", line], env=env, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        asked = done.stdout.replace("--project=my-project ", "")
        assert "gcloud compute tpus" in asked, asked


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


def main(folder: str, everything: str, *pages: str) -> None:
    """Follows pages one after another; writes `outcome-N` for each: nothing, or the traceback."""
    place = pathlib.Path(folder, "reader")
    place.mkdir()
    reader = Reader(place, everything == "everything")
    for number, page in enumerate(pages):
        problem = ""
        try:
            reader.follow(pathlib.Path(page).absolute())
        except BaseException:
            problem = traceback.format_exc()
        pathlib.Path(folder, f"{OUTCOME}-{number}").write_text(problem)


if __name__ == "__main__":
    main(*sys.argv[1:])
