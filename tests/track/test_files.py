"""Small files that a kill leaves whole."""

import os
import pathlib

import numpy as np
import pytest

from scaling.track import files


def test_texts_are_replaced_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.json"
    files.write_json(path, {"a": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["f.json"]
    with pytest.raises(TypeError, match="cannot be written"):
        files.to_json({"a": object()})


def test_a_number_is_pythons_or_an_array_without_dimensions() -> None:
    assert all(map(files.is_number, (1, 0.5, np.float32(2), np.array(3))))
    assert not any(map(files.is_number, (True, None, "1", b"1", [1], np.zeros(1))))
