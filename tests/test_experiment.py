import pathlib
import traceback
from typing import Any

import pytest
from helpers import ROOT

from scaling import configs
from scaling.configs import ConfigError
from scaling.experiment import CHECKS
from scaling.parallel.axes import check_devices

QUICKSTART = str(ROOT / "experiments" / "quickstart.py")


@pytest.fixture(scope="module")
def quickstart() -> Any:
    return configs.load_resolved(QUICKSTART)


WSD = {"name": "wsd", "warmup_steps": 20}

BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"data.source": None}, "data.source", "neither data.source nor data.mixture"),
    ({"data.mixture": {"a": {"source": {"name": "stdlib"}}}}, "data.mixture", "both given"),
    ({"mesh.fsdp": 0}, "mesh.fsdp", "not a size"),
    ({"mesh.tensor": -1}, "mesh.tensor", "and so is"),
    ({"mesh.rules": (("embed", "fdsp"),)}, "mesh.rules", "did you mean fsdp"),
    ({"mesh.fsdp": 3}, "train.batch_size", "multiple of 3"),
    ({"mesh.fsdp": 2, "mesh.replica": 3}, "train.batch_size", "multiple of 6"),
    ({"train.accumulate": 3}, "train.batch_size", "multiple of 3"),
    ({"train.accumulate": 8, "mesh.data": 4}, "train.batch_size", "multiple of 32"),
    ({"eval.batch_size": 5, "mesh.data": 2}, "eval.batch_size", "multiple of 2"),
    ({"model.num_kv_heads": 3}, "model.num_kv_heads", "give [24]"),
    ({"model.num_heads": 3}, "model.num_heads", "set model.head_dim"),
    ({"mesh.tensor": 3}, "model.num_heads", "do not divide over"),
    ({"mesh.tensor": 4, "model.num_kv_heads": 2}, "model.num_kv_heads", "do not divide over"),
    ({"train.steps": 10}, "optim.schedule.warmup_steps", "more than train.steps=10"),
    ({"optim.schedule": WSD | {"decay_fraction": 0.99}}, "optim.schedule.decay_fraction", "more"),
    ({"optim.schedule.warmup_fraction": 0.3}, "optim.schedule.warmup_fraction", "says otherwise"),
    ({"eval.every": 0, "eval.patience": 3}, "eval.patience", "one evaluation"),
    ({"eval.every": 0, "checkpoint.keep_best": 3}, "checkpoint.keep_best", "one evaluation"),
    (
        {"eval.every": 20, "checkpoint.every": 15, "checkpoint.keep_best": 3},
        "checkpoint.keep_best",
        "some have none",
    ),
    ({"checkpoint.keep_steps": (10**9,)}, "checkpoint.keep_steps", "after the last step"),
    ({"eval.min_delta": 0.1}, "eval.min_delta", "patience"),
    (
        {"train.on_bad_step": "rollback", "checkpoint.every": 0},
        "train.on_bad_step",
        "no checkpoint to return to",
    ),
    ({"train.init_from.a.map": (("a", "b"),)}, "train.init_from.a.run", "is required"),
]


@pytest.mark.parametrize(("overrides", "key", "words"), BROKEN)
def test_a_broken_check_is_named(
    quickstart: Any, overrides: dict[str, Any], key: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        configs.replace(quickstart, overrides)
    assert caught.value.key == key
    assert caught.value.remedy


# What a component refuses itself, found by building it from shapes alone.
UNBUILDABLE: list[tuple[str, str, str]] = [
    ("model.head_dim=3", "model.head_dim", "rotary"),
    ("data.seq_len=4096", "model.max_len", r"4096 tokens \(data.text.seq_len\) is longer than"),
    ("task=classification", "data.source", "gives text, but"),
    ("model=cnn", "model.name", "has no vocab_size"),
    ("model.vocab_size=9", "model.vocab_size", "less than the 257 of the data"),
    ("eval.also.x.evaluation=beam", "eval.also.x.evaluation", "has no evaluation 'beam'"),
]


@pytest.mark.parametrize(("override", "key", "words"), UNBUILDABLE)
def test_what_a_component_refuses_is_named_before_the_start(override, key, words) -> None:
    from scaling.train.program import check_buildable

    raw = configs.load(QUICKSTART)
    if override.startswith("eval.also"):
        raw.eval.also = {"x": {"evaluation": "beam"}}
        config = configs.resolve(raw)
    else:
        config = configs.load_resolved(QUICKSTART, [override])
    with pytest.raises(ConfigError, match=words) as caught:
        check_buildable(config)
    assert caught.value.key == key
    assert caught.value.remedy


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"mesh.data": 16},
        {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 4, "train.accumulate": 4},
        {"mesh.tensor": 3, "mesh.rules": (("heads", None),)},
        {"mesh.tensor": 4, "model.num_kv_heads": 2, "mesh.rules": (("kv_heads", None),)},
        {"mesh.fsdp": 3, "mesh.rules": (("batch", "data"),)},
        {"model.head_dim": 3, "model.position": "learned"},
        {"model.num_heads": 3, "model.head_dim": 8},
        {"eval.every": 10_000, "checkpoint.every": 10_000},  # the last step does both anyway
        {"train.steps": 34, "optim.schedule": WSD | {"decay_fraction": 0.4}},
    ],
)
def test_what_fits_passes(quickstart: Any, overrides: dict[str, Any]) -> None:
    configs.replace(quickstart, overrides)


def test_checks_hold_for_components_without_the_keys(quickstart: Any) -> None:
    """A model without `num_heads` has no heads to divide."""
    mlp = configs.replace(quickstart, {"model": {"name": "mlp"}, "mesh.tensor": 3})
    assert "num_heads" not in mlp.model


def test_every_check_is_broken_by_some_case(quickstart: Any) -> None:
    """No check is dead: each of them is the one that refuses something above."""
    refusing = set()
    for overrides, _, _ in BROKEN:
        try:
            configs.replace(quickstart, overrides)
        except ConfigError as error:
            frames = traceback.extract_tb(error.__traceback__)
            refusing |= {f"{pathlib.Path(f.filename).stem}:{f.name}" for f in frames}
    assert {path.rpartition(".")[2] for path in CHECKS} <= refusing


def test_an_evaluation_is_added_by_flags_and_a_misspelt_one_is_not() -> None:
    flags = [
        "eval.also.text.options={}",
        "eval.also.text.evaluation=sample",
        "eval.also.text.every=5",
    ]
    entry = configs.load_resolved(QUICKSTART, flags).eval.also["text"]
    assert (entry.evaluation, entry.every, dict(entry.options)) == ("sample", 5, {})
    with pytest.raises(ConfigError, match=r"also give --config.eval.also.tex.evaluation="):
        configs.load(QUICKSTART, [*flags, "eval.also.tex.every=5"])


def test_devices(quickstart: Any) -> None:
    check_devices(quickstart, 8)
    check_devices(configs.replace(quickstart, {"mesh.tensor": 4}), 8)
    for overrides, count, key in (
        ({"mesh.tensor": 4}, 6, "mesh"),
        ({"mesh.data": 4}, 8, "mesh"),
        ({}, 3, "train.batch_size"),
        (
            {"eval.also": {"text": {"evaluation": "sample", "batch_size": 3}}},
            2,
            "eval.also.text.batch_size",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            check_devices(configs.replace(quickstart, overrides), count)
        assert caught.value.key == key
