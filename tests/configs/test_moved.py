"""Old places of keys: in files, in config.json of old runs, in overrides."""

import json
import pathlib

import pytest
from helpers import ROOT

from scaling import configs
from scaling.configs import ConfigError, moved
from scaling.configs.tree import find
from scaling.experiment import Experiment

QUICKSTART = str(ROOT / "experiments" / "quickstart.py")

FILE = """
import importlib.util
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict(dict(
        task=dict(name="language_model"), model=dict(name="transformer"),
        optim=dict(name="adamw", schedule=dict(name="constant")),
        data=dict(source=dict(name="stdlib"), seq_len=32, tokenizer=dict(name="bpe")),
        train=dict(init_from="runs/a", init_from_map=(("a", "b"),), audit_bytes=77),
        mesh=dict(waivers=("*/w",)),
    ))
    config.model.max_len = config.data.get_ref("seq_len") * 2
    return config
"""


def test_an_old_file_means_the_same(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "old.py"
    path.write_text(FILE)
    config = configs.load_resolved(str(path), ["data.tokenizer.vocab_size=300"])
    assert (config.data.text.seq_len, config.data.text.tokenizer.vocab_size) == (32, 300)
    source = (config.train.init_from or {})["source"]
    assert (source.run, source.map) == ("runs/a", (("a", "b"),))
    assert (config.mesh.large_bytes, config.mesh.allow_replicated) == (77, ("*/w",))
    # A reference to the old key follows an override, under its old name and its new one.
    for token in ("data.seq_len=64", "data.text.seq_len=64"):
        assert configs.load_resolved(str(path), [token]).model.max_len == 128
    assert configs.load_resolved(str(path), ["train.init_from=None"]).train.init_from is None


def test_an_old_run_is_read_with_the_defaults_of_then() -> None:
    raw = configs.plain(configs.load_resolved(QUICKSTART))
    new = raw["data"].pop("text")
    raw["data"] |= new
    raw["train"] |= {"init_from": None, "init_from_map": (), "audit_bytes": 64 * 2**20}
    raw["mesh"]["waivers"] = raw["mesh"].pop("allow_replicated")
    del raw["mesh"]["large_bytes"], raw["eval"]["also"]
    raw["eval"]["stop_metric"] = "eval/loss"
    old = configs.from_json(json.dumps(raw))
    assert old == configs.load_resolved(QUICKSTART)
    assert configs.fingerprint(old) == configs.fingerprint(configs.load_resolved(QUICKSTART))


def test_both_places_are_refused() -> None:
    raw = configs.load(QUICKSTART)
    raw.data.text = {"seq_len": 8}
    raw.data.seq_len = 9
    with pytest.raises(ConfigError, match=r"so is data\.seq_len, its old place") as caught:
        configs.resolve(raw)
    assert caught.value.key == "data.text.seq_len"
    with pytest.raises(ConfigError, match="given twice"):
        configs.load(QUICKSTART, ["data.seq_len=8", "data.text.seq_len=9"])


@pytest.mark.parametrize("new", sorted(moved.MOVED.values()))
def test_every_new_place_exists(new: str) -> None:
    raw = configs.plain(configs.load_resolved(QUICKSTART))
    raw["train"]["init_from"] = {"source": {"run": "x"}}
    node, rest = find(Experiment, raw, new)
    assert not rest or rest[0] in node.params()
