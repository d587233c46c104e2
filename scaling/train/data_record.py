"""What a run keeps of its data: facts and artefacts, so that it can be opened where the data is not.

`data.json` lies in the run directory and in every checkpoint.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from scaling.configs.component import import_from
from scaling.data import DataInfo
from scaling.track import files

NAME = "data.json"


class DataRecordError(RuntimeError):
    """A run directory without a usable data.json."""


def to_text(info: DataInfo, artefacts: Mapping[str, Any]) -> str:
    """The content of data.json."""
    kept = {
        name: {"type": f"{type(a).__module__}:{type(a).__qualname__}", "text": a.to_text()}
        for name, a in artefacts.items()
    }
    return files.to_json({"info": info.to_json(), "artefacts": kept}) + "\n"


def read(folder: pathlib.Path) -> tuple[DataInfo, dict[str, Any]]:
    """Facts and artefacts of a run directory (or of one of its checkpoints).

    Raises:
      DataRecordError: there is no data.json, or an artefact's class cannot be imported.
    """
    path = folder / NAME
    if not path.exists():
        raise DataRecordError(
            f"{folder} has no {NAME}: an older version of this package wrote it. Start that run "
            "again with its config (it goes on from its checkpoint, and writes the file)"
        )
    content = files.decode(json.loads(path.read_text(encoding="utf-8")))
    artefacts = {}
    for name, kept in content["artefacts"].items():
        try:
            artefacts[name] = import_from(kept["type"]).from_text(kept["text"])
        except (ImportError, AttributeError) as error:
            raise DataRecordError(
                f"{path}: the artefact {name!r} needs {kept['type']}: {error}; put its package on "
                "PYTHONPATH"
            ) from error
    return DataInfo.from_json(content["info"]), artefacts
