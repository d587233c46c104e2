"""init_from: what is taken over, what is told, what is refused."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from scaling.experiment import InitFrom
from scaling.train.checkpoints import Checkpoints
from scaling.train.init_from import InitFromError, Report, load_initial

FORMAT_1 = str(ROOT / "tests" / "fixtures" / "checkpoint_v1_extra")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    params = {
        "embed": jnp.arange(12.0).reshape(4, 3),
        "layers_0": {"kernel": jnp.full((3, 3), 2.0), "bias": jnp.full((3,), 3.0)},
        "head": {"kernel": jnp.full((3, 4), 4.0)},
    }
    state = {
        "params": params,
        "ema": {"embed": params["embed"] + 1},
        "model_state": {"batch_stats": {"mean": jnp.full(3, 5.0)}},
    }
    with Checkpoints(folder / "checkpoints") as saver:
        saver.save(1, state, {}, {})
        saver.save(2, jax.tree.map(lambda x: x * 10, state), {}, {})
    return str(folder)


def load(
    sources: dict[str, InitFrom], **variables: Any
) -> tuple[dict[str, Any], dict[str, Report], str]:
    said: list[str] = []
    loaded, reports = load_initial(sources, variables, said.append)
    return loaded, reports, "\n".join(said)


def test_takes_what_matches_and_tells_the_rest(source: str) -> None:
    here = {"embed": jnp.zeros((4, 3), jnp.bfloat16), "layers_0": {"kernel": jnp.zeros((3, 3))}}
    here |= {"new": jnp.full((2,), 7.0)}
    plain = InitFrom(source, step=1, weights="params")
    loaded, reports, said = load({"base": plain}, params=here)
    report = reports["base"]
    assert report.source.endswith("checkpoints/00000001")
    assert report.matched == ("params/embed", "params/layers_0/kernel")
    assert report.missing == ("params/new",)
    assert report.unused == ("params/head/kernel", "params/layers_0/bias")
    assert "2 matched, 1 missing, 2 unused" in said
    assert "unused: params/head/kernel" in said
    assert "params: 1 of 3 arrays come from no other run and keep their initial values" in said
    assert "initial: params/new" in said
    assert loaded["params"]["embed"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(loaded["params"]["embed"], np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(loaded["params"]["new"], 7.0)
    np.testing.assert_array_equal(loaded["params"]["layers_0"]["kernel"], 2.0)


def test_newest_step_evaluated_weights_sharding_and_rules(source: str) -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    sharding = NamedSharding(mesh, P("data"))
    here = {"emb": {"table": jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=sharding)}}
    rules = (("^embed$", "emb/table"), ("^(layers|head).*", ""))
    for weights in ("evaluated", "ema"):
        loaded, reports, _ = load({"a": InitFrom(source, None, weights, map=rules)}, params=here)
        assert loaded["params"]["emb"]["table"].sharding == sharding
        table = 10 * (np.arange(12).reshape(4, 3) + 1)
        np.testing.assert_array_equal(loaded["params"]["emb"]["table"], table)
    assert reports["a"].missing == ()
    assert len(reports["a"].unused) == 3


def test_other_collections_come_too_and_what_no_source_has_is_said(source: str) -> None:
    """Batch statistics were not loaded before, and nothing said so."""
    here = {
        "params": {"embed": jnp.zeros((4, 3))},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
        "carry": {"h": jnp.full(4, 6.0)},
    }
    loaded, reports, said = load({"a": InitFrom(source, 1)}, **here)
    assert set(reports["a"].matched) == {"params/embed", "batch_stats/mean"}
    assert reports["a"].missing == ("batch_stats/var",)
    np.testing.assert_array_equal(loaded["batch_stats"]["mean"], 5.0)
    np.testing.assert_array_equal(loaded["batch_stats"]["var"], 1.0)
    np.testing.assert_array_equal(loaded["carry"]["h"], 6.0)
    assert "carry: 1 of 1 arrays come from no other run" in said
    assert "batch_stats: 1 of 2 arrays come from no other run" in said
    only = InitFrom(source, 1, collections=("params",))
    loaded, _, said = load({"a": only}, **here)
    np.testing.assert_array_equal(loaded["batch_stats"]["mean"], 0.0)
    assert "batch_stats: 2 of 2 arrays come from no other run" in said


def test_a_source_of_format_1() -> None:
    norm = {"mean": jnp.zeros(3), "var": jnp.zeros(3)}
    here = {"params": {"dense": {"kernel": jnp.zeros((2, 3))}}, "batch_stats": {"norm": norm}}
    loaded, reports, _ = load({"a": InitFrom(FORMAT_1)}, **here)
    assert len(reports["a"].matched) == 3
    np.testing.assert_array_equal(loaded["batch_stats"]["norm"]["var"], 4.0)
    kernel = np.arange(6).reshape(2, 3) + 10  # the moving average
    np.testing.assert_array_equal(loaded["params"]["dense"]["kernel"], kernel)


def test_several_sources_prefixes_and_another_collection(source: str) -> None:
    """A teacher under a prefix, and a base whose parameters are frozen here."""
    bias = {"layers_0": {"bias": jnp.zeros(3)}}
    here = {"params": {"teacher": bias, "lora": jnp.ones(2)}, "frozen": {"base": bias}}
    sources = {
        "teacher": InitFrom(source, 1, into="teacher"),
        "base": InitFrom(source, 2, collections=("params",), map=(("^", "frozen:"),), into="base"),
    }
    loaded, reports, said = load(sources, **here)
    np.testing.assert_array_equal(loaded["params"]["teacher"]["layers_0"]["bias"], 3.0)
    np.testing.assert_array_equal(loaded["frozen"]["base"]["layers_0"]["bias"], 30.0)
    np.testing.assert_array_equal(loaded["params"]["lora"], 1.0)
    assert reports["base"].matched == ("frozen/base/layers_0/bias",)
    assert reports["base"].missing == reports["teacher"].missing == ()
    assert "initial: params/lora" in said
    sources["again"] = InitFrom(source, 2, into="teacher")
    with pytest.raises(
        InitFromError, match=r"comes from both teacher params/layers_0/bias and aga"
    ):
        load(sources, **here)


def test_shapes_must_fit(source: str) -> None:
    here = {"embed": jnp.zeros((6, 3)), "layers_0": {"bias": jnp.zeros(3)}}
    with pytest.raises(
        InitFromError, match=r"embed: \[4, 3\] there, \[6, 3\] here\n.*rule of `map`"
    ):
        load({"a": InitFrom(source)}, params=here)
    _, reports, _ = load({"a": InitFrom(source, map=(("^embed$", ""),))}, params=here)
    assert reports["a"].missing == ("params/embed",)
    assert "params/embed" in reports["a"].unused


def test_refusals(source: str, tmp_path: pathlib.Path) -> None:
    x = {"x": jnp.zeros(3)}

    def refused(match: str, here: Any = x, run: Any = source, **options: Any) -> None:
        with pytest.raises(InitFromError, match=match):
            load({"a": InitFrom(str(run), **options)}, params=here)

    refused(r"nothing matches: there 'params/embed', here 'params/x'; rename")
    refused(
        r"params/x comes from both a params/head/kernel and a params/layers_0",
        map=((".*kernel", "x"),),
    )
    refused(r"init_from.a.map: .*not a valid rule", map=(("(", "x"),))
    refused(r"has no \['carry'\]; it has \['batch_stats', 'params'\]", collections=("carry",))
    refused(r"no checkpoint", run=tmp_path)
    refused(r"no checkpoint of step 7", step=7)
    abstract = {"embed": jnp.zeros((4, 3)), "new": jax.ShapeDtypeStruct((3,), jnp.float32)}
    refused(r"'params/new'.* no initial value", here=abstract)
    with Checkpoints(tmp_path) as saver:
        saver.save(1, {"params": x}, {}, {})
    refused(r"init_from.a.weights: .* has no moving average", run=tmp_path, weights="ema")
