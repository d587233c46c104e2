"""Tokens left out in training: their share, what stands there, and what stays."""

import jax
import numpy as np
import pytest
from helpers import IMAGE_INFO, context, tiny_images

from scaling.configs import ConfigError
from scaling.data.info import DataInfo
from scaling.tasks.base import Task, TaskContext
from scaling.tasks.drop_tokens import drop_tokens

INFO = DataInfo("labelled_text", "examples", {}, vocab_size=50, num_classes=3)
BATCH = {
    "inputs": np.random.default_rng(0).integers(0, 49, (64, 20)).astype(np.int32),
    "segments": np.repeat([[1] * 15 + [0] * 5], 64, axis=0).astype(np.int32),
    "labels": np.arange(64, dtype=np.int32),
}


def wrapped(info=INFO, **keys):
    """(batch, context) -> the batch that the task inside gets to see."""
    inside = Task(init=lambda rng: {}, loss=lambda variables, batch, context, hparams: batch)
    task = drop_tokens(TaskContext(tiny_images(), info, "cpu"), inside, **keys)
    return lambda batch, context: task.loss({}, batch, context, {})


def test_a_share_of_the_text_is_replaced_and_nothing_else():
    see = jax.jit(lambda rng: wrapped(rate=0.2, token=49)(BATCH, context(True)._replace(rng=rng)))
    one, again, other = (see(jax.random.key(seed)) for seed in (0, 0, 1))
    gone = np.asarray(one["inputs"]) == 49
    assert gone[:, :15].mean() == pytest.approx(0.2, abs=0.04)  # 3 deviations of 960 draws
    assert not gone[:, 15:].any()
    np.testing.assert_array_equal(one["inputs"][~gone], BATCH["inputs"][~gone])
    np.testing.assert_array_equal(one["inputs"], again["inputs"])
    assert not np.array_equal(one["inputs"], other["inputs"])
    for key in ("segments", "labels"):
        np.testing.assert_array_equal(one[key], BATCH[key])


def test_without_a_token_any_of_the_vocabulary_comes():
    changed = np.asarray(wrapped(rate=0.9)(BATCH, context(True))["inputs"])[:, :15]
    assert set(changed[changed != BATCH["inputs"][:, :15]].tolist()) == set(range(50))


def test_evaluation_sees_texts_as_they_are():
    assert wrapped(rate=0.9)(BATCH, context(False)) is BATCH


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ConfigError, match=r"task\.token: 50 is outside the vocabulary of 50"):
        wrapped(token=50)
    with pytest.raises(ConfigError, match="labelled_text or tagged_text"):
        wrapped(info=IMAGE_INFO)
