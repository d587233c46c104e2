"""The run directory, the one thing that every other tool reads.

config.json       the resolved config, as it is now
provenance.json   fingerprint, and one entry for every start of the run
metrics.jsonl     one stream across restarts     superseded.jsonl  lines of lost attempts
summary.json      how it ended                   goodput.json      where the time went
forecast.json     what was expected of it, if it was forecast
checkpoints/      tensorboard/      wandb/       lock
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from scaling import configs
from scaling.experiment import Experiment
from scaling.track import files, provenance, sealed
from scaling.track.lock import Lock
from scaling.track.stream import METRICS, read_metrics

CONFIG, PROVENANCE, SUMMARY = "config.json", "provenance.json", "summary.json"
DATA = "data.json"


class RunDirError(RuntimeError):
    """The directory cannot serve this run: another run's, not writable, or damaged."""


@dataclasses.dataclass(frozen=True)
class UsedDevices:
    """What a run used.

    Attributes:
      cores: that the process may use, where the device is the CPU, whose speed depends on them;
        None for other devices, and where it is not recorded.
    """

    kind: str
    count: int
    cores: int | None = None

    def __str__(self) -> str:
        on = "" if self.cores is None else f" with {self.cores} core{'s' * (self.cores > 1)}"
        return f"{self.count} x {self.kind}{on}"


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        content = files.read_json(path) if path.exists() else {}
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a JSON object")
    except ValueError as error:
        raise RunDirError(f"{error}: restore it from a backup, or use another --workdir") from error
    return content


def _content(name: str) -> functools.cached_property[dict[str, Any]]:
    return functools.cached_property(lambda run: _read(run.path / name))


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What the files of a run directory say; each is read when it is first asked for, and kept.

    A file that is missing is an empty dict (or list). One that is damaged raises RunDirError with
    its name.

    Attributes:
      config: config.json as plain data; `configs.from_json` makes a config of the file's text.
      summary: how the run ended.
      provenance: every start of the run.
      data: what the run keeps of its data.
    """

    path: pathlib.Path

    config, summary = _content(CONFIG), _content(SUMMARY)
    provenance, data = _content(PROVENANCE), _content(DATA)

    @functools.cached_property
    def forecast(self) -> dict[str, Any]:
        """forecast.json, its seal checked (SealError)."""
        path = self.path / sealed.FORECAST
        return sealed.read(path) if path.exists() else {}

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl, as `read_metrics`."""
        return read_metrics(self.path) if (self.path / METRICS).exists() else []

    @property
    def objective(self) -> str:
        """The metric of `summary["eval"]` that stands for the run."""
        return str(self.summary.get("objective", "loss"))

    @property
    def device(self) -> UsedDevices | None:
        """The devices of the last start; None if they are not recorded or of several kinds."""
        attempts = self.provenance.get("attempts") or [{}]
        devices = attempts[-1].get("devices") or {}
        kinds = devices.get("kinds") or {}
        if len(kinds) != 1:
            return None
        ((kind, count),) = kinds.items()
        return UsedDevices(
            kind, count, devices.get("cores") if devices["platform"] == "cpu" else None
        )

    def median(self, key: str) -> float | None:
        """The median of a number over the stream, its first line (which warms up) left out."""
        values = [line[key] for line in self.metrics if key in line]
        steady = [value for value in values[1:] if isinstance(value, float)]
        return statistics.median(steady) if steady else None


def read_run(workdir: str | os.PathLike[str]) -> RunFacts:
    """A run directory to read, whether the run has ended, still runs or never started."""
    return RunFacts(pathlib.Path(workdir))


def find_runs(root: str | os.PathLike[str]) -> list[RunFacts]:
    """Every run below a folder that has a summary.json, by path.

    Symbolic links to folders are followed. A folder that several paths lead to is found once, by
    its own path if that is below `root`, and a link to a folder above itself ends there.
    """
    seen: set[str] = set()
    folders: list[pathlib.Path] = []
    linked = [os.fspath(root)]
    while linked:
        for folder, below, names in os.walk(linked.pop(0)):
            real = os.path.realpath(folder)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            paths = [os.path.join(folder, name) for name in sorted(below)]
            linked += [path for path in paths if os.path.islink(path)]
            if SUMMARY in names:
                folders.append(pathlib.Path(folder))
    return [RunFacts(path) for path in sorted(folders)]


class RunDir(files.Closing):
    """A run's own directory, locked against other processes.

    Only process 0 of a run opens it; the others need only the path.

    Attributes:
      attempt: number of this start of the run, from 1.
      notes: what is worth telling about the start (a lock taken over, changed settings).
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        config_json: str,
        fingerprint: str,
        start: Mapping[str, Any],
    ) -> None:
        """Opens or creates a run directory and writes config.json and provenance.json.

        Args:
          config_json: `configs.to_json` of the resolved config.
          fingerprint: `configs.fingerprint` of it.
          start: `provenance.collect` of this start.

        Raises:
          RunDirError: it belongs to a run with another fingerprint (the differences are listed),
            cannot be written to, or its files are damaged.
          LockedError: another process trains here.
          SealError: its forecast.json was edited, or is for another experiment.
        """
        self.path = pathlib.Path(workdir).absolute()
        self.notes: list[str] = []
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path)
        except OSError as error:
            raise RunDirError(
                f"{self.path} cannot be written to ({error}): fix its owner and mode, free space "
                "on its disk, or use another --workdir"
            ) from error
        try:
            changes = self._check(config_json, fingerprint)
            self._record(config_json, fingerprint, start, changes)
        except BaseException:
            self._lock.release()
            raise
        self.notes += self._lock.notes

    def _check(self, config_json: str, fingerprint: str) -> list[str]:
        """Differences to the config of the last start, none of which changes the result."""
        if not (self.path / PROVENANCE).exists():
            strangers = {p.name for p in self.path.iterdir()} - {"lock", CONFIG}
            if {"metrics.jsonl", "checkpoints"} & strangers:
                raise RunDirError(
                    f"{self.path} holds {sorted(strangers)} but no {PROVENANCE}, so nothing says "
                    "whose they are: use an empty --workdir"
                )
            return []
        old = _read(self.path / PROVENANCE).get("fingerprint")
        text = (self.path / CONFIG).read_text(encoding="utf-8")
        before: Experiment | dict[str, Any] = configs.decode(text)
        # By the keys of today, which an older version may have had elsewhere or not at all.
        with contextlib.suppress(configs.ConfigError):
            before = configs.from_json(text)
            old = configs.fingerprint(before)
        differences = configs.diff(before, configs.decode(config_json))
        lines = configs.format_differences(differences, "there", "now") if differences else ""
        if old != fingerprint:
            raise RunDirError(
                f"{self.path} belongs to another experiment (fingerprint {old}, this one is "
                f"{fingerprint}):\n{lines}\nUse another --workdir for this config, or the "
                f"settings on the left to go on with that run."
            )
        return lines.splitlines()

    def _record(
        self, config_json: str, fingerprint: str, start: Mapping[str, Any], changes: list[str]
    ) -> None:
        path = self.path / PROVENANCE
        record = _read(path)
        if not record:  # a forecast counts only if it was there before the first start
            forecast = sealed.forecast_of(self.path, fingerprint)
            record = {"fingerprint": fingerprint, "forecast": forecast, "attempts": []}
        if changes:
            self.notes.append("settings changed since the last start:\n" + "\n".join(changes))
        earlier = record.get("attempts", [])
        other = provenance.changes(earlier[-1], start) if earlier else []
        if other:
            self.notes.append(
                "not bit for bit what the earlier start would have gone on with, as these have "
                "changed since:\n  " + "\n  ".join(other)
            )
        record["attempts"] = [*earlier, {**start, "config_changes": changes}]
        self.attempt = len(record["attempts"])
        # config.json first: a directory with provenance is one that has its config.
        files.write_text(self.path / CONFIG, config_json)
        files.write_json(path, record)

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.release()
