"""JSON files that carry a hash of their own content, so that a later edit of a value shows.

A forecast is worth something only if it was not touched after the fact: `forecast.json` is sealed
when it is written, and the seal goes into provenance.json when the run first starts.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from scaling.track import files

FORECAST = "forecast.json"
_SEAL = "sha256"


class SealError(RuntimeError):
    """A sealed file that is damaged, was edited, or belongs to another run."""


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of everything but the seal itself; order and white space do not count."""
    kept = {key: value for key, value in content.items() if key != _SEAL}
    text = json.dumps(files.encode(kept), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `content` with its seal, atomically; returns what was written."""
    # Encoded first: what is hashed is what a reader of the file will see.
    plain = files.encode(content)
    sealed = {**plain, _SEAL: seal(plain)}
    files.write_json(path, sealed)
    return sealed


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a sealed file, seal included.

    Raises:
      SealError: it cannot be read, is not a sealed file, or was edited since it was sealed.
    """
    try:
        content = files.read_json(path)
    except (OSError, ValueError) as error:
        raise SealError(f"{path} cannot be read ({error}): make it again") from error
    if not isinstance(content, dict) or _SEAL not in content:
        raise SealError(f"{path} carries no {_SEAL}: make it again")
    if seal(content) != content[_SEAL]:
        raise SealError(f"{path} was changed after it was written (its {_SEAL} does not match)")
    return content


def forecast_of(workdir: str | os.PathLike[str], fingerprint: str) -> str | None:
    """The seal of a run's forecast, to be recorded before its first step; None without one.

    Raises:
      SealError: it was edited, or forecasts another experiment than `fingerprint`.
    """
    path = pathlib.Path(workdir) / FORECAST
    if not path.exists():
        return None
    content = read(path)
    if content.get("fingerprint") != fingerprint:
        raise SealError(
            f"{path} forecasts another experiment (fingerprint {content.get('fingerprint')}, this "
            f"run is {fingerprint}): forecast this config, or remove the file"
        )
    return str(content[_SEAL])
