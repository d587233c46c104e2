import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pytest
from configs import fakes

from scaling import configs
from scaling.configs import ConfigError
from scaling.configs.component import MISSING
from scaling.configs.types import AddedLater

Resolve = Callable[..., Any]


def test_json_round_trip(resolved: Resolve) -> None:
    config = resolved("model.window=7,8", "train.rename=((a,b),)")
    text = configs.to_json(config)
    again = configs.resolve(configs.decode(text), fakes.Tree)
    assert again == config
    assert again.model.window == (7, 8)
    assert again.train.rename == (("a", "b"),)
    assert again.train.begin is None
    assert again.model.logits_cap == math.inf
    assert configs.to_json(again) == text


def test_json_is_standard(resolved: Resolve) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(configs.to_json(resolved()), parse_constant=refuse)


@pytest.mark.parametrize("text", ["", "[1]", "{", "3"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        configs.from_json(text)


def test_code_is_no_config() -> None:
    with pytest.raises(ConfigError, match=r"a: .*not plain data"):
        configs.to_json({"a": print})


def test_fingerprint_is_of_what_changes_the_result(resolved: Resolve) -> None:
    base = configs.fingerprint(resolved())
    assert len(base) == 16
    for ambient in ("mesh.data=4", "train.cache=there", "name=other", "platform=cpu"):
        assert configs.fingerprint(resolved(ambient)) == base, ambient
    for real in ("train.steps=3", "seed=1", "optim.b2=0.9", "data.mixture.code.weight=1"):
        assert configs.fingerprint(resolved(real)) != base, real


def test_a_key_that_came_later_counts_only_with_another_value() -> None:
    @dataclasses.dataclass(frozen=True)
    class Before:
        steps: int = 3

    @dataclasses.dataclass(frozen=True)
    class After(Before):
        limit: Annotated[int | None, AddedLater()] = None
        options: Annotated[Mapping[str, int], AddedLater()] = dataclasses.field(
            default_factory=dict
        )

    before = configs.fingerprint(configs.resolve({}, Before))
    assert configs.fingerprint(configs.resolve({}, After)) == before
    for change in ({"limit": 3}, {"options": {"a": 1}}):
        assert configs.fingerprint(configs.resolve(change, After)) != before


def test_whole_fingerprint_leaves_nothing_out(resolved: Resolve) -> None:
    whole = {
        configs.fingerprint(resolved(*one), whole=True)
        for one in ((), ("mesh.data=4",), ("name=other",))
    }
    assert len(whole) == 3


def test_fingerprint_survives_json_and_key_order(resolved: Resolve) -> None:
    config = resolved()
    base = configs.fingerprint(config)
    again = configs.resolve(configs.decode(configs.to_json(config)), fakes.Tree)
    assert configs.fingerprint(again) == base
    backwards = dict(reversed(list(configs.plain(config).items())))
    assert configs.fingerprint(configs.resolve(backwards, fakes.Tree)) == base


def test_fingerprint_is_a_fixed_function() -> None:
    """Pinned: a change here makes every stored fingerprint worthless."""
    config = {"seed": 3, "a": {"b": (1, 2.5, None, True), "c": "é", "d": math.inf, "e": 1e-8}}
    assert configs.fingerprint(config, whole=True) == "46dde25a05afe895"


def test_fingerprint_does_not_depend_on_the_process() -> None:
    code = """
from scaling import configs
print(configs.fingerprint({'b': {'x', 1} and 1, 'a': 2.5}, whole=True))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_diff_lists_every_leaf() -> None:
    left = {"a": 1, "b": {"c": (1, 2), "d": None}, "e": {"f": 1}, "same": 1}
    right = {"a": 2, "b": {"c": (1, 3), "d": 0}, "e": None, "same": 1.0, "new": True}
    found = {one.key: (one.left, one.right) for one in configs.diff(left, right)}
    assert found == {
        "a": (1, 2),
        "b.c": ((1, 2), (1, 3)),
        "b.d": (None, 0),
        "e.f": (1, MISSING),
        "e": (MISSING, None),
        "new": (MISSING, True),
    }


def test_diff_tells_truth_from_one() -> None:
    assert [one.key for one in configs.diff({"a": (True, 1)}, {"a": (1, 1)})] == ["a"]


def test_differences_are_aligned() -> None:
    differences = configs.diff({"long.key": 1, "a": "text"}, {"long.key": 2, "a": "t"})
    lines = configs.format_differences(differences, "runs/a", "runs/b").splitlines()
    assert lines[0].index("runs/b") == lines[2].index("2") == lines[1].index("'t'")
    assert configs.format_differences([], "x", "y") == "no difference between x and y"


def test_get() -> None:
    config = {"a": {"b": 3, "c": None}}
    assert configs.get(config, "a.b") == 3
    assert configs.get(config, "a.b.c.d", 5) == 5
    assert configs.get(config, "a.c", 5) == 5
