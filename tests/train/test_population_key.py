"""What may differ in a population, and that what may differ is an argument of the step."""

import jax
import numpy as np
import pytest
from helpers import TEXT_INFO, text_batch, tiny_images, tiny_language_model

from scaling import parallel
from scaling.train import population_key as keys
from scaling.train.program import build_program


@pytest.mark.parametrize(
    "overrides",
    [
        {"optim.learning_rate": 0.5, "optim.b1": 0.8, "optim.clip_norm": 2.0},
        {"seed": 3, "data.seed": 4},
        {"model.init_scale": 2.0},
        {"name": "other", "checkpoint.every": 1, "track.every": 7, "mesh.data": 2},
        {"train.init_from": "/runs/other"},
    ],
    ids=str,
)
def test_these_may_differ(overrides):
    assert keys.population_key(tiny_language_model(**overrides)) == keys.population_key(
        tiny_language_model()
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.model_dim": 64},
        {"train.steps": 6},
        {"optim.clip_norm": None},
        {"optim.schedule.warmup_steps": 3},
        {"data.limit": 1000},
        {"task.label_smoothing": 0.1},
        {"mesh.fsdp": 2},
    ],
    ids=str,
)
def test_these_may_not(overrides):
    assert keys.population_key(tiny_language_model(**overrides)) != keys.population_key(
        tiny_language_model()
    )


def test_numbers_of_the_task_may_differ_where_they_are_on():
    smoothed = [tiny_language_model(**{"task.label_smoothing": s}) for s in (0.1, 0.2)]
    assert keys.population_key(smoothed[0]) == keys.population_key(smoothed[1])
    assert [keys.numbers(one)["label_smoothing"] for one in smoothed] == [0.1, 0.2]
    assert "label_smoothing" not in keys.numbers(tiny_language_model())
    assert keys.numbers(tiny_images())["learning_rate"] == 1e-2


def test_the_step_takes_the_tasks_numbers_as_arrays():
    def program(**overrides: float):
        mesh = jax.sharding.Mesh(
            np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), ("replica", "data", "fsdp", "tensor")
        )
        changed = {f"task.{k}": v for k, v in overrides.items()}
        config = tiny_language_model(**{"model.num_layers": 1, **changed})
        return build_program(config, TEXT_INFO, mesh)

    def losses(program, **changes: float) -> dict[str, float]:
        rows = text_batch(0)
        batch = parallel.put_batch(
            lambda a, b: {k: v[a:b].copy() for k, v in rows.items()},
            program.train_batch,
            program.mesh,
        )
        state, hparams = program.fresh_state(), program.hparams(**changes)
        for _ in range(2):
            state, metrics = program.step(state, batch, hparams)
        return {k: float(v) for k, v in metrics.items()}

    low, high = (program(label_smoothing=s, z_loss=z) for s, z in ((0.1, 1e-4), (0.3, 1e-2)))
    changed = losses(low, label_smoothing=0.3, z_loss=1e-2)
    assert changed == losses(high)
    assert changed["grad_norm"] != losses(low)["grad_norm"]
    with pytest.raises(KeyError, match="label_smoothing"):
        program().hparams(label_smoothing=0.1)
