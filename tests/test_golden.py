"""The shipped configs, resolved, against tests/golden; see scripts/golden.py."""

import pathlib

import pytest
from helpers import ROOT

from scaling import configs
from scaling.configs import dump
from scaling.configs.errors import ConfigError
from scaling.configs.files import import_file

golden = import_file(ROOT / "scripts" / "golden.py")
SHIPPED = golden.shipped()


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_config_is_as_dumped(name: str) -> None:
    found = golden.differences(name, SHIPPED[name])
    table = dump.format_differences(found, "dump", "config")
    assert not found, f"{table}\nmeant? then python scripts/golden.py --write"


def test_runs_that_older_versions_began_are_the_same_runs() -> None:
    """Pinned: mark a new key of a section as `AddedLater`, and do not change defaults lightly."""
    pinned = {"quickstart": "99fe8415d1af9906", "mnist-cnn": "675a9af04757070b"}
    pinned |= {"zipf": "46378b99a8a4ce61", "gpt2-124m": "fca77d0927b0563a"}
    prints = {
        name: configs.fingerprint(configs.load_resolved(SHIPPED[name], [])) for name in pinned
    }
    assert prints == pinned


def test_no_dump_without_a_config() -> None:
    assert set(golden.dumped()) <= set(SHIPPED)


def test_a_changed_default_shows(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "quickstart"
    text = (golden.GOLDEN / f"{name}.json").read_text()
    monkeypatch.setattr(golden, "GOLDEN", tmp_path)
    with pytest.raises(ConfigError, match="has no dump"):
        golden.differences(name, SHIPPED[name])
    raw = dump.decode(text)
    raw["optim"]["clip_norm"] = 123.0
    del raw["train"]["steps"]
    (tmp_path / f"{name}.json").write_text(dump.to_json(raw))
    found = {one.key for one in golden.differences(name, SHIPPED[name])}
    assert found == {"optim.clip_norm", "train.steps"}
