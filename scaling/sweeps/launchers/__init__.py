"""Launchers: each starts processes that run the cells of a sweep; none keeps state of its own.

local              workers on this machine
slurm              workers as Slurm jobs, through submitit
skypilot, jobset   files for `sky` and `kubectl`, whose jobs each run a part of the cells

A launcher is a module with `launch(sweep, request) -> exit code`; here is what they share.
"""

import dataclasses
import importlib
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from scaling.configs import ConfigError
from scaling.configs.brackets import split_items, unquote
from scaling.configs.errors import RefusedError, suggest
from scaling.sweeps.sweep_dir import SweepDir
from scaling.sweeps.worker import TRIES

Resources = dict[str, str | int | bool]


class LaunchError(RuntimeError):
    """Jobs or workers cannot be started; says why."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks of a launcher.

    Attributes:
      workers: how many processes or jobs; None for the launcher's own default.
      group: most cells that train in one program; None for the launcher's own default.
      resources: "KEY=VALUE,..." of a cluster.
      submit: hand files over to the tool that reads them, instead of only writing them.
    """

    workers: int | None = None
    tries: int = TRIES
    group: int | None = None
    resources: str = ""
    submit: bool = False

    def parts(self, sweep: SweepDir) -> int:
        """How many jobs share the cells, where each job runs a part of them."""
        return min(self.workers or 1, len(sweep.ids))


def launch(name: str, sweep: SweepDir, request: Request) -> int:
    """Starts a sweep with the launcher `name`; returns the exit code.

    Raises:
      ConfigError: `request.resources` asks for what the launcher does not have.
      LaunchError, LedgerError: nothing can be started, or the ledger is damaged; says why.
    """
    return int(importlib.import_module(f"{__name__}.{name}").launch(sweep, request))


def parse_resources(
    text: str, known: Mapping[str, str], *, required: Sequence[str] = (), prefix: str = ""
) -> Resources:
    """Keys and values of `--resources`; whole numbers and true/false become such.

    Args:
      text: "KEY=VALUE,..."; a value that holds a comma stands in quotes: KEY='a,b'.
      known: key -> what it means.
      required: keys that must be there.
      prefix: keys that begin so are passed on unchecked; "" for none.

    Raises:
      ConfigError: a part is not KEY=VALUE; a key is unknown, given twice or missing.
    """
    asked: Resources = {}
    try:
        pairs = [part.partition("=")[::2] for part in split_items(text)] if text.strip() else []
        pairs = [(key, unquote(v) if v[:1] in ("'", '"') else v) for key, v in pairs]
    except RefusedError as error:
        raise refused(error.reason, error.remedy) from None
    for key, value in pairs:
        if not key or not value:
            what = f"{key or value!r} is not KEY=VALUE"
            raise refused(what, "write KEY=VALUE,...; a value with a comma: KEY='a,b'")
        if key not in known and not (prefix and key.startswith(prefix)):
            raise refused(f"there is no {key!r}", suggest(key, list(known)))
        if key in asked:
            raise refused(f"{key} is given twice", "give it once")
        words = {"true": True, "false": False}
        asked[key] = words.get(value.lower(), int(value) if value.isdecimal() else value)
    for key in required:
        if key not in asked:
            raise refused(f"{key} is required", f"write {key}=..., {known[key]}")
    return asked


def refused(reason: str, remedy: str) -> ConfigError:
    """The error for a value of `--resources`."""
    return ConfigError("--resources", reason, remedy)


def slug(text: str, longest: int) -> str:
    """A name that clouds and Kubernetes accept: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-") or "sweep"


def hand_over(
    path: pathlib.Path, text: str, script: str, *, tool: str, submit: bool, hint: str
) -> int:
    """Writes `path`, and beside it a shell script that gives it to `tool`; runs that or prints `hint`.

    The tool is the user's program that starts the jobs: to `submit` it must be on the path, else
    LaunchError. The exit code is the script's. "{script}" in the hint becomes the script's path.
    """
    start = path.with_suffix(".sh")
    path.write_text(text, encoding="utf-8")
    start.write_text(script, encoding="utf-8")
    start.chmod(0o755)
    print(f"wrote {path} and {start}")
    if not submit:
        print(hint.format(script=os.path.relpath(start)))
        return 0
    if shutil.which(tool) is None:
        raise LaunchError(f"--submit needs `{tool}` on the path; without it, run {start} elsewhere")
    return subprocess.run([str(start)], check=False).returncode
