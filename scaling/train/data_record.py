"""What a run keeps of its data: facts and artefacts, so that it can be opened where the data is not.

`data.json` lies in the run directory and in every checkpoint.
"""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from scaling.configs.component import import_from
from scaling.data import Data, DataInfo
from scaling.data.loader import Batch
from scaling.track import files

NAME = "data.json"
SAMPLE = 256  # examples at most whose contents stand for a split's


class DataRecordError(RuntimeError):
    """A run directory without a usable data.json."""


def samples(data: Data) -> dict[str, str]:
    """{split: hash of the examples of its first batch}: other contents of equal size show here."""
    size = min(data.train.batch_size, SAMPLE)
    batches = {"train": data.train.batch(0, 0, size)}
    batches |= {name: split.batch(0, SAMPLE, 0, SAMPLE) for name, split in data.evals.items()}
    return {f"{name}_sample": _batch_hash(batch) for name, batch in batches.items()}


def _batch_hash(batch: Batch) -> str:
    content = hashlib.sha256()
    for key in sorted(batch):
        content.update(f"{key} {batch[key].dtype} {batch[key].shape}".encode())
        content.update(np.ascontiguousarray(batch[key]).tobytes())
    return content.hexdigest()[:12]


def to_text(data: Data) -> str:
    """The content of data.json."""
    info, artefacts, sizes = data.info, data.artefacts, dict(data.sizes)
    kept = {
        name: {"type": f"{type(a).__module__}:{type(a).__qualname__}", "text": a.to_text()}
        for name, a in artefacts.items()
    }
    content = {"info": info.to_json(), "artefacts": kept, "sizes": sizes}
    content["samples"] = samples(data)
    return files.to_json(content) + "\n"


def compare(folder: pathlib.Path, text: str) -> list[str]:
    """What differs from the data.json of an earlier start, if there is one, in `to_text` of this.

    Raises:
      DataRecordError: an artefact differs: a model that goes on would read other tokens than it
        was trained on.
    """
    path = folder / NAME
    if not path.exists():
        return []
    before, now = files.read_json(path), json.loads(text)
    for name, kept in before["artefacts"].items():
        if kept != now["artefacts"].get(name):
            raise DataRecordError(
                f"{path}: this run was started with another {name} than the data give now "
                f"({_hash(kept)}, now {_hash(now['artefacts'].get(name))}), and would go on with "
                "other tokens than it was trained on. Put the data and the cache back as they were "
                "(a damaged cache is made anew when its folder is deleted), or use another --workdir"
            )
    changed = []
    for facts in ("sizes", "samples"):
        there, here = before.get(facts, now[facts]), now[facts]
        changed += [f"{k}: {there.get(k)} -> {here[k]}" for k in here if there.get(k) != here[k]]
    return ["the data changed since the last start: " + ", ".join(changed)] if changed else []


def _hash(artefact: object) -> str:
    """12 hex digits that stand for an artefact."""
    return hashlib.sha256(json.dumps(artefact, sort_keys=True).encode()).hexdigest()[:12]


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
