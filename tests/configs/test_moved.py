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


def test_an_old_override_means_the_same(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "now.py"
    path.write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('quickstart', {QUICKSTART!r})\n"
        "quickstart = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(quickstart)\n"
        "def get_config():\n"
        "    config = quickstart.get_config()\n"
        "    config.data.text = dict(seq_len=32)\n"
        "    config.model.max_len = config.data.text.get_ref('seq_len') * 2\n"
        "    return config\n"
    )
    tokens = ["data.tokenizer.name=bpe", "data.tokenizer.vocab_size=300", "train.init_from=runs/a"]
    config = configs.load_resolved(str(path), [*tokens, "mesh.waivers=*/w", "data.seq_len=64"])
    assert (config.data.text.seq_len, config.data.text.tokenizer.vocab_size) == (64, 300)
    assert config.model.max_len == 128  # what refers to the key follows the override
    assert (config.train.init_from or {})["source"].run == "runs/a"
    assert config.mesh.allow_replicated == ("*/w",)
    assert configs.load_resolved(QUICKSTART, ["train.init_from=None"]).train.init_from is None
    assert configs.replace(config, {"data.seq_len": 8}).data.text.seq_len == 8


def test_an_old_file_means_the_same_and_its_old_keys_take_no_override(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "old.py"
    path.write_text(
        "def get_config():\n"
        "    return dict(task=dict(name='language_model'), model=dict(name='transformer'),\n"
        "      optim=dict(name='adamw', schedule=dict(name='constant')),\n"
        "      data=dict(source=dict(name='stdlib'), seq_len=32, tokenizer=dict(name='bpe')),\n"
        "      train=dict(init_from='runs/a', init_from_map=(('a', 'b'),), audit_bytes=77))\n"
    )
    config = configs.load_resolved(str(path), ["train.steps=5"])
    assert (config.data.text.seq_len, config.data.text.tokenizer.name) == (32, "bpe")
    source = (config.train.init_from or {})["source"]
    assert (source.run, source.map) == ("runs/a", (("a", "b"),))
    assert config.mesh.large_bytes == 77
    with pytest.raises(ConfigError, match=r"so is data\.seq_len, its old place"):
        configs.load_resolved(str(path), ["data.seq_len=64"])


def test_an_old_run_is_read_with_the_defaults_of_then() -> None:
    raw = configs.plain(configs.load_resolved(QUICKSTART))
    new = raw["data"].pop("text")
    del new["lanes"]  # came later
    raw["data"] |= new
    raw["train"] |= {"init_from": None, "init_from_map": (), "audit_bytes": 64 * 2**20}
    raw["mesh"]["waivers"] = raw["mesh"].pop("allow_replicated")
    del raw["mesh"]["large_bytes"], raw["eval"]["also"]
    raw["eval"]["stop_metric"] = "eval/loss"
    old = configs.from_json(json.dumps(raw))
    assert old == configs.load_resolved(QUICKSTART)
    assert configs.fingerprint(old) == configs.fingerprint(configs.load_resolved(QUICKSTART))


def test_both_places_are_refused() -> None:
    raw = configs.plain(configs.load_resolved(QUICKSTART))
    raw["data"]["seq_len"] = 9
    with pytest.raises(ConfigError, match=r"so is data\.seq_len, its old place") as caught:
        configs.from_json(json.dumps(raw))
    assert caught.value.key == "data.text.seq_len"
    with pytest.raises(ConfigError, match="given twice"):
        configs.load(QUICKSTART, ["data.seq_len=8", "data.text.seq_len=9"])


@pytest.mark.parametrize("new", sorted(moved.MOVED.values()))
def test_every_new_place_exists(new: str) -> None:
    raw = configs.plain(configs.load_resolved(QUICKSTART))
    raw["train"]["init_from"] = {"source": {"run": "x"}}
    node, rest = find(Experiment, raw, new)
    assert not rest or rest[0] in node.params()
