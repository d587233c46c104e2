"""init_from: what is taken over, what is told, what is refused."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from scaling.train.checkpoints import Checkpoints, load_numpy
from scaling.train.init_from import InitFromError, init_from, load_variables


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    params = {
        "embed": jnp.arange(12.0).reshape(4, 3),
        "layers_0": {"kernel": jnp.full((3, 3), 2.0), "bias": jnp.full((3,), 3.0)},
        "head": {"kernel": jnp.full((3, 4), 4.0)},
    }
    with Checkpoints(folder / "checkpoints") as saver:
        saver.save(1, {"params": params, "ema": {"embed": params["embed"] + 1}}, {}, "{}", {})
    return folder


def run(source: pathlib.Path, like: Any, **options: Any) -> tuple[Any, Any, str]:
    told: list[str] = []
    params, report = init_from(source, like, say=told.append, **options)
    return params, report, told[0]


def test_takes_what_matches_and_tells_the_rest(source: pathlib.Path) -> None:
    like = {"embed": jnp.zeros((4, 3), jnp.bfloat16), "layers_0": {"kernel": jnp.zeros((3, 3))}}
    like |= {"new": jnp.full((2,), 7.0)}
    params, report, told = run(source, like)
    assert report.matched == ("embed", "layers_0/kernel")
    assert report.missing == ("new",)
    assert report.unused == ("head/kernel", "layers_0/bias")
    assert "2 matched, 1 missing, 2 unused, 0 reshaped" in told
    assert "missing: new" in told
    assert params["embed"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["new"], 7.0)
    np.testing.assert_array_equal(params["layers_0"]["kernel"], 2.0)


def test_subtree_sharding_and_rules(source: pathlib.Path) -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    sharding = NamedSharding(mesh, P("data"))
    like = {"emb": {"table": jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=sharding)}}
    params, report, _ = run(source, like, subtree="ema", mapping=[("^embed$", "emb/table")])
    assert params["emb"]["table"].sharding == sharding
    np.testing.assert_array_equal(params["emb"]["table"], np.arange(12).reshape(4, 3) + 1)
    assert report.unused == ()


def test_shapes_must_fit_or_be_made_to(source: pathlib.Path) -> None:
    like = {"embed": jnp.zeros((6, 3)), "layers_0": {"bias": jnp.zeros(3)}}
    with pytest.raises(
        InitFromError, match=r"embed: \[4, 3\] there, \[6, 3\] here\n.*init_from_map"
    ):
        run(source, like)

    def pad(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        assert path == "embed"
        return np.pad(array, [(0, new - old) for old, new in zip(array.shape, shape, strict=True)])

    params, report, _ = run(source, like, reshape=pad)
    assert report.reshaped == ("embed",)
    assert params["embed"].shape == (6, 3)
    _, report, _ = run(source, like, mapping=[("^embed$", "")])
    assert report.missing == ("embed",)
    assert "embed" in report.unused


def test_refusals(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    zeros = jnp.zeros(3)
    with pytest.raises(InitFromError, match=r"nothing matches: there 'embed', here 'other'"):
        run(source, {"other": zeros})
    with pytest.raises(InitFromError, match=r"both .* into x"):
        run(source, {"x": zeros}, mapping=[(".*kernel", "x")])
    with pytest.raises(InitFromError, match="no valid rule"):
        run(source, {"x": zeros}, mapping=[("(", "x")])
    abstract = {"embed": jnp.zeros((4, 3)), "new": jax.ShapeDtypeStruct((3,), jnp.float32)}
    with pytest.raises(InitFromError, match=r"'new'.* must come from there"):
        run(source, abstract)
    with pytest.raises(InitFromError, match=r"'new'.* must come from there"):
        run(source, {"embed": jnp.zeros((4, 3)), "new": zeros}, allow_missing=["head"])
    with pytest.raises(InitFromError, match="nothing under 'parms'"):
        run(source, {"x": zeros}, subtree="parms")
    with pytest.raises(InitFromError, match="no checkpoint"):
        run(tmp_path, {"x": zeros})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with batch statistics and an average of its parameters, as format 1 wrote it."""
    folder = tmp_path_factory.mktemp("classifier")
    state = {
        "params": {"kernel": jnp.full((2, 2), 1.0)},
        "ema": {"kernel": jnp.full((2, 2), 5.0)},
        "extra": {"batch_stats": {"mean": jnp.full((2,), 3.0)}},
    }
    with Checkpoints(folder / "checkpoints") as saver:
        saver.save(1, state, {}, "{}", {})
    step = folder / "checkpoints" / "00000001"
    tree = json.loads((step / "tree.json").read_text())
    (step / "tree.json").write_text(json.dumps(tree | {"format": 1}))
    (step / "manifest.json").unlink()  # of the tree as it was; without one it counts as unverified
    return folder


@pytest.mark.filterwarnings("ignore:.*no manifest")
def test_all_collections_of_an_older_run_and_the_evaluated_weights(
    classifier: pathlib.Path,
) -> None:
    told: list[str] = []
    here = {
        "params": {"kernel": jnp.zeros((2, 2))},
        "batch_stats": {"mean": jnp.zeros(2)},
        "carry": {"h": jnp.zeros(4)},
    }
    found = load_variables(classifier, here, say=told.append)
    np.testing.assert_array_equal(found["params"]["kernel"], 5.0)
    np.testing.assert_array_equal(found["batch_stats"]["mean"], 3.0)
    np.testing.assert_array_equal(found["carry"]["h"], 0.0)
    assert any("collection carry: not in" in text for text in told)


@pytest.mark.filterwarnings("ignore:.*no manifest")
def test_parameters_may_become_a_frozen_collection(classifier: pathlib.Path) -> None:
    here = {"params": {"lora": jnp.zeros(3)}, "frozen": {"base": {"kernel": jnp.zeros((2, 2))}}}
    rules = [("^(.*)$", r"frozen:base/\1")]
    found = load_variables(classifier, here, rules, say=lambda text: None)
    np.testing.assert_array_equal(found["frozen"]["base"]["kernel"], 5.0)
    np.testing.assert_array_equal(found["params"]["lora"], 0.0)


@pytest.mark.filterwarnings("ignore:.*no manifest")
def test_a_checkpoint_of_format_1_is_restored_under_its_new_names(classifier) -> None:
    like = {
        "params": {"kernel": jnp.zeros((2, 2))},
        "ema": {"kernel": jnp.zeros((2, 2))},
        "model_state": {"batch_stats": {"mean": jnp.zeros(2)}},
    }
    _, state, _ = Checkpoints(classifier, read_only=True).restore(like)
    np.testing.assert_array_equal(state["model_state"]["batch_stats"]["mean"], 3.0)
    assert set(load_numpy(classifier)) == {"params", "ema", "model_state"}
