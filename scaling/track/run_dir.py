"""The run directory, the one thing that every other tool reads.

config.json       the resolved config, as it is now
provenance.json   fingerprint, and one entry for every start of the run
metrics.jsonl     one stream across restarts     superseded.jsonl  lines of lost attempts
summary.json      how it ended                   goodput.json      where the time went
forecast.json     what was expected of it, if anybody said so before
checkpoints/      tensorboard/      wandb/       lock
"""

import contextlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from scaling import configs
from scaling.track import files, sealed
from scaling.track.lock import Lock

CONFIG, PROVENANCE, SUMMARY = "config.json", "provenance.json", "summary.json"


class RunDirError(RuntimeError):
    """The directory cannot serve this run: another run's, not writable, or damaged."""


class RunDir:
    """A run's own directory, locked against other processes.

    Only process 0 of a run opens it; the others need but the path.

    Attributes:
      path: the directory.
      attempt: number of this start of the run, from 1.
      provenance: content of provenance.json.
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
          workdir: the directory; made with its parents.
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

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

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
        before: Any = configs.decode(text)
        # By the keys of today, which an older version may have had elsewhere or not at all.
        with contextlib.suppress(configs.ConfigError):
            before = configs.from_json(text)
            old = configs.fingerprint(before)
        found = configs.diff(before, configs.decode(config_json))
        lines = configs.format_differences(found, "there", "now") if found else ""
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
        if path.exists():
            record = _read(path)
        else:  # a forecast counts only if it was there before the first start
            forecast = sealed.forecast_of(self.path, fingerprint)
            record = {"fingerprint": fingerprint, "forecast": forecast, "attempts": []}
        if changes:
            self.notes.append("settings changed since the last start:\n" + "\n".join(changes))
        record["attempts"] = [*record.get("attempts", []), {**start, "config_changes": changes}]
        self.provenance, self.attempt = record, len(record["attempts"])
        # config.json first: a directory with provenance is one that has its config.
        files.write_text(self.path / CONFIG, config_json)
        files.write_json(path, record)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, atomically."""
        files.write_json(self.path / SUMMARY, dict(summary))

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.release()

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_summary(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """summary.json of a run, or None when the run never got to write one.

    Raises:
      RunDirError: the file is damaged.
    """
    path = pathlib.Path(workdir) / SUMMARY
    return _read(path) if path.exists() else None


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return files.read_json(path)
    except ValueError as error:
        raise RunDirError(f"{error}: restore it from a backup, or use another --workdir") from error
