"""Hundreds of wrong overrides, made from the tree itself: each is refused by name, none starts JAX."""

import dataclasses
import json
import os
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from annotated_types import Interval
from helpers import ROOT

from scaling import cli, configs
from scaling.configs import ConfigError, tree
from scaling.configs.component import Param, alternatives, strip
from scaling.configs.dump import flatten
from scaling.configs.tree import Node, all_keys, dig
from scaling.experiment import Experiment
from scaling.train.program import check_buildable

QUICKSTART = str(ROOT / "experiments" / "quickstart.py")
CONFIG = configs.plain(configs.load_resolved(QUICKSTART))
# None-valued sections aside, every key of the resolved quickstart.
PATHS = [path for path in all_keys(tree.root(Experiment, CONFIG)) if dig(CONFIG, path) is not None]
COMPONENT_NAMES = (
    "task.name",
    "model.name",
    "optim.name",
    "optim.schedule.name",
    "data.source.name",
)

Case = tuple[tuple[str, ...], str]  # (tokens of the command line, what the message must name)


def params(node: Node | None = None) -> Iterator[tuple[str, Param]]:
    """(path, parameter) of every key of the sections that the quickstart has."""
    node = node or tree.root(Experiment, CONFIG)
    for key, param in node.params().items():
        below = node.child(key)
        if below is None:
            yield tree.join(node.path, key), param
        elif below.stated is not None:
            yield from params(below)


def typing_errors(word: str) -> list[str]:
    """A letter lost, doubled, swapped and added."""
    middle = len(word) // 2
    swapped = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return [
        word[:middle] + word[middle + 1 :],
        word[:middle] + word[middle:] * 2,
        swapped,
        word + "x",
    ]


def misspelt() -> Iterator[Case]:
    """Each key with a typing error in its last part, and one in each part above."""
    for path in PATHS:
        parts = path.split(".")
        for wrong in typing_errors(parts[-1]):
            full = ".".join([*parts[:-1], wrong])
            if full not in PATHS and wrong and dig(CONFIG, full) is None:
                yield (f"--config.{full}=1",), full
        for depth in range(len(parts) - 1):
            wrong = parts[depth] + "s"
            yield (
                (f"--config.{'.'.join([*parts[:depth], wrong, *parts[depth + 1 :]])}=1",),
                ".".join([*parts[:depth], wrong]),
            )


def members(annotation: Any) -> list[Any]:
    return [strip(one)[0] for one in alternatives(annotation)]


def wrong_texts(annotation: Any) -> list[str]:
    """Texts of another type than the annotation's."""
    kinds = [one for one in members(annotation) if one is not types.NoneType]
    optional = types.NoneType in members(annotation)
    if len(kinds) != 1:
        return []
    (kind,) = kinds
    texts = {
        int: ["1.5", "many", "true", "", "1e99", "1,2", "nan"],
        float: ["much", "true", "", "nan", "1e999", "1,2"],
        bool: ["maybe", "2", "", "1.0"],
        str: ["", "'open"],
    }.get(kind, [])
    if typing.get_origin(kind) is Literal:
        texts = ["no_such_choice", "", str(typing.get_args(kind)[0]) + "x"]
    if typing.get_origin(kind) is tuple:
        texts = ["", "(1,2", "1,,2"]
    return [*texts, *([] if optional else ["None"])] if texts else []


def mistyped() -> Iterator[Case]:
    for path, param in params():
        for text in wrong_texts(param.annotation):
            yield (f"--config.{path}={text}",), path


def out_of_range() -> Iterator[Case]:
    for path, param in params():
        every = (param.annotation, *alternatives(param.annotation))
        for mark in (mark for one in every for mark in strip(one)[1]):
            if not isinstance(mark, Interval):
                continue
            for bound, step in ((mark.ge, -1), (mark.le, 1), (mark.gt, 0), (mark.lt, 0)):
                if bound is not None:
                    yield (f"--config.{path}={bound + step}",), path


def dashes_missing() -> Iterator[Case]:
    for path in PATHS:
        yield (f"config.{path}=1",), path
        yield (f"-config.{path}=1",), path
        yield (f"--{path}=1",), path.rpartition(".")[0]


def without_value() -> Iterator[Case]:
    for path in PATHS:
        yield (f"--config.{path}", "--dry_run"), path


def given_twice() -> Iterator[Case]:
    for path in PATHS:
        yield (f"--config.{path}=1", f"--config.{path}=2"), path


def wrong_components() -> Iterator[Case]:
    for path in COMPONENT_NAMES:
        name = dig(CONFIG, path)
        for text in (*typing_errors(name), "no.such.module:Name", "sys:path", "None", ""):
            yield (f"--config.{path}={text}",), path


def keys_of_others() -> Iterator[Case]:
    """Keys that only another component of the family has."""
    for path in COMPONENT_NAMES:
        section = path.removesuffix(".name")
        node, _ = tree.find(Experiment, CONFIG, section)
        for other in node.section.family.names:
            for key in dataclasses.replace(node, stated={"name": other}).params():
                if key not in node.params():
                    yield (f"--config.{section}.{key}=1",), f"{section}.{key}"


CONTRADICTIONS: list[Case] = [
    (("--config.data.source=None",), "data.source"),
    (("--config.data.mixture.a.source=stdlib",), "data.mixture"),
    (("--config.mesh.data=-1", "--config.mesh.fsdp=-1"), "mesh.fsdp"),
    (("--config.mesh.fsdp=0",), "mesh.fsdp"),
    (("--config.mesh.fsdp=3",), "train.batch_size"),
    (("--config.mesh.tensor=3",), "model.num_heads"),
    (("--config.mesh.rules=((heads,tenser),)",), "mesh.rules"),
    (("--config.train.accumulate=5",), "train.accumulate"),
    (("--config.train.batch_size=7", "--config.train.accumulate=2"), "train.batch_size"),
    (("--config.model.num_heads=5",), "model.num_heads"),
    (("--config.model.num_kv_heads=3",), "model.num_kv_heads"),
    (("--config.model.head_dim=7",), "model.head_dim"),
    (("--config.data.seq_len=5000",), "data.text.seq_len"),
    (("--config.train.steps=10",), "train.steps"),
    (("--config.optim.schedule.warmup_fraction=0.5",), "optim.schedule.warmup_fraction"),
    (("--config.optim.schedule.decay_fraction=1",), "optim.schedule"),
    (("--config.eval.every=0", "--config.eval.patience=2"), "eval.patience"),
    (("--config.eval.min_delta=1",), "eval.min_delta"),
    (("--config.checkpoint.every=0", "--config.train.on_bad_step=rollback"), "train.on_bad_step"),
    (("--config.train.init_from_map=(a,b),",), "train.init_from.source.run"),
    (("--config.optim=lion", "--config.optim.name=sgd"), "optim.name"),
    (("--config.optim.name=sgd",), "optim.adam_learning_rate"),
    (("--config.train=DEFAULT", "--config.train.steps=3"), "train.steps"),
    (("--worrkdir=x",), "--worrkdir"),
    (("--workdir=a", "--workdir=b"), "--workdir"),
    (("--step=3",), "--step"),
]


def cases() -> list[Case]:
    """All of them, each once, in an order that does not change."""
    groups = (
        misspelt(), mistyped(), out_of_range(), dashes_missing(), without_value(), given_twice(),
        wrong_components(), keys_of_others(), CONTRADICTIONS,
    )  # fmt: skip
    return list(dict.fromkeys(case for group in groups for case in group))


def refusal(tokens: tuple[str, ...]) -> str | None:
    """The message that a command line is refused with, key and reason in it; else None."""
    try:
        _, values, overrides = cli.parse([f"--config={QUICKSTART}", *tokens])
        config = configs.load_resolved(values["config"], overrides)
        check_buildable(config)
    except ConfigError as error:
        return str(error) if error.key and error.reason else None
    return None


@pytest.fixture(scope="module")
def answers() -> list[tuple[list[str], str, str | None]]:
    """(tokens, what the message must name, message) of all cases, from a process without a backend."""
    code = (
        "import json, sys; sys.path.insert(0, 'tests'); from configs import test_fuzz\n"
        "answers = [(*case, test_fuzz.refusal(case[0])) for case in test_fuzz.cases()]\n"
        "from jax._src import xla_bridge; assert not xla_bridge._backends\n"
        "print(json.dumps(answers))"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, check=True, timeout=300, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_every_wrong_override_is_refused_by_name(answers) -> None:
    assert len(answers) >= 500
    groups = (misspelt, mistyped, out_of_range, dashes_missing, wrong_components, keys_of_others)
    assert all(any(True for _ in group()) for group in groups)
    accepted = [tokens for tokens, _, message in answers if message is None]
    assert not accepted
    unnamed = [(tokens, message) for tokens, named, message in answers if named not in message]
    assert not unnamed


def test_what_is_near_is_named() -> None:
    """One letter too many in the last part of a key: the remedy holds the key itself."""
    for path in PATHS:
        message = refusal((f"--config.{path}x=1",))
        assert message is not None
        assert path in message.split("\n")[1], message


def test_every_key_takes_its_own_value() -> None:
    """The other side of the fuzz: what the resolved config shows can be given back to it."""
    accepted = 0
    for path, value in flatten(CONFIG).items():
        if isinstance(value, (bool, int, float, str)) or value is None:
            text = f"'{value}'" if value == "" else str(value)
            loaded = configs.load_resolved(QUICKSTART, [f"{path}={text}"])
            assert dig(loaded, path) == value, path
            accepted += 1
    assert accepted > 50


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (("config.optim.learning_rate=5",), "config.optim.learning_rate"),
        (("--config.optim.b22=1",), "optim.b22"),
        (("--config.train.steps=1.5",), "train.steps"),
        (("--config.optim.name=adamv",), "optim.name"),
        (("--config.mesh.tensor=3",), "model.num_heads"),
        (("--worrkdir=x",), "--worrkdir"),
    ],
)
def test_the_front_door_exits_with_2_before_a_backend_starts(
    tokens: tuple[str, ...], named: str
) -> None:
    """JAX is told to start a platform that does not exist: starting any backend would crash."""
    done = subprocess.run(
        [sys.executable, "-m", "scaling.main", f"--config={QUICKSTART}", *tokens],
        env={**os.environ, "JAX_PLATFORMS": "no_such_platform"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
