"""Schedules, samplers with known solutions, and the U-Net: sizes by hand, rows apart, time seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import IMAGE_INFO, context, image_batch, quick, tiny_images

from scaling import parallel
from scaling.configs import ConfigError
from scaling.tasks.base import build_task
from scaling.tasks.diffusion import ddim, integrate, noise_levels, on_the_line, spaced
from scaling.tasks.losses import mean_loss

MODEL = {"name": "unet", "width": 8, "multipliers": (1, 2), "blocks": 1, "num_heads": 2}


def built(model=MODEL, **task):
    config = tiny_images(task={"name": "diffusion", **task}, model=model)
    task = build_task(config, IMAGE_INFO, "cpu")
    return task, parallel.unbox(jax.jit(task.init)(jax.random.key(0)))


def shaken(variables):
    """Without the zeros that the last layers start with."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, moved)


# --- schedules -------------------------------------------------------------------------------


def test_the_cosine_schedule():
    level = noise_levels()
    assert level.shape == (1001,)
    assert level[0] == 1.0
    assert (np.diff(level) < 0).all()
    time = np.arange(1000) / 1000  # only the very last step is cut
    cosine = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(level[:-1], cosine / cosine[0], rtol=1e-9)
    assert level[-1] == pytest.approx(level[-2] * 1e-3)


def test_the_line_and_its_velocity():
    image, noise = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 1))
    ends = [on_the_line(image, noise, jnp.full(3, t))[0] for t in (0.0, 1.0)]
    np.testing.assert_allclose(ends[0], noise)
    np.testing.assert_allclose(ends[1], image)
    x, time, velocity = on_the_line(image, noise, jnp.array([0.25, 0.5, 0.75]))
    rest = (1 - time)[:, None, None, None]
    np.testing.assert_allclose(x + rest * velocity, image, atol=1e-6)


def test_times_are_spaced_and_each_is_uniform():
    times = np.stack([spaced(jax.random.key(i), 8) for i in range(400)])
    assert times.min() >= 0
    assert times.max() < 1
    np.testing.assert_allclose(np.diff(np.sort(times, axis=1), axis=1), 1 / 8, atol=1e-6)
    for row in times.T:
        assert np.histogram(row, bins=4, range=(0, 1))[0].min() > 60


# --- samplers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise():
    return jax.random.normal(jax.random.key(3), (4, 2, 2, 1))


def test_a_straight_path_is_exact_in_one_step(noise):
    image = jnp.full_like(noise, 0.3)
    for heun in (False, True):
        end = integrate(lambda x, t: image - noise, noise, 1, heun)
        np.testing.assert_allclose(end, image, atol=1e-6)


def test_a_linear_velocity_is_solved_to_the_order_of_the_rule(noise):
    """dx/dt = (2 t - 3) x ends at exp(-2) x."""

    def velocity(x, time):
        return (2 * time - 3)[:, None, None, None] * x

    exact = np.exp(-2.0) * noise
    errors = {
        heun: [
            float(jnp.max(jnp.abs(integrate(velocity, noise, steps, heun) - exact)))
            for steps in (20, 40)
        ]
        for heun in (False, True)
    }
    assert errors[False][0] / errors[False][1] == pytest.approx(2, rel=0.2)
    assert errors[True][0] / errors[True][1] == pytest.approx(4, rel=0.2)
    assert errors[True][1] < 2e-3


def level_at(time):
    return jnp.asarray(noise_levels(), jnp.float32)[jnp.round(time * 1000).astype(int)][
        :, None, None, None
    ]


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_ddim_comes_back_to_the_only_image_there_is(noise, steps):
    image = jnp.linspace(-0.9, 0.9, noise.size).reshape(noise.shape)

    def predicted(x, time):
        level = level_at(time)
        return (x - jnp.sqrt(level) * image) / jnp.sqrt(1 - level)

    end = ddim(predicted, noise, noise_levels(), steps)
    # From the last level, 2e-9, the image is read out of the fifth decimal of x.
    np.testing.assert_allclose(end, image, atol=2e-3 if steps == 1 else 1e-5)


def test_ddim_maps_normal_noise_to_normal_images(noise):
    """Pixels of deviation s: the flow scales x by s, and keeps every point's place."""
    deviation = 0.2

    def predicted(x, time):
        level = level_at(time)
        return jnp.sqrt(1 - level) * x / (level * deviation**2 + 1 - level)

    end = ddim(predicted, noise, noise_levels(), 1000)
    np.testing.assert_allclose(end, deviation * noise, rtol=0.02, atol=1e-3)
    cut = ddim(lambda x, t: jnp.zeros_like(x), noise, noise_levels(), 10)
    assert float(jnp.max(jnp.abs(cut))) <= 1.0


# --- the task --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
def test_the_loss_is_the_targets_size_before_anything_is_learned(kind):
    task, variables = built(kind=kind)
    batch = image_batch(0, rows=64)
    batch["weights"][50:] = 0.0
    evaluate = jax.jit(lambda b, seed: task.loss(variables, b, context(False, seed), {}))
    values = [mean_loss(jax.device_get(evaluate(batch, 0).metrics), "examples")]
    pixels = batch["images"][:50] / 127.5 - 1
    expected = 1.0 if kind == "ddpm" else 1.0 + float(np.mean(pixels**2))
    assert values[0]["loss"] == pytest.approx(expected, rel=0.05)
    assert values[0]["examples"] == 50
    changed = {**batch, "images": batch["images"].copy()}
    changed["images"][50:] = 0
    values.append(mean_loss(jax.device_get(evaluate(changed, 0).metrics), "examples"))
    assert values[0] == values[1]


def sampled(task, variables, seed, count=3):
    return task.functions["sample"](variables, jax.random.key(seed), count)


SAMPLERS = ({"kind": "flow"}, {"kind": "flow", "sampler": "euler"}, {"kind": "ddpm"})


@pytest.mark.parametrize("task", quick(SAMPLERS, {"kind": "ddpm"}))
def test_samples_are_pixels_and_a_function_of_the_key(task):
    task, variables = built(sample_steps=2, **task)
    variables = shaken(variables)
    sample = jax.jit(lambda seed: sampled(task, variables, seed))
    first = sample(1)
    assert first.shape == (3, 8, 8, 1)
    assert first.dtype == jnp.uint8
    np.testing.assert_array_equal(first, sample(1))
    assert (first != sample(2)).any()


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ({"kind": "ddpm", "sampler": "heun"}, "task.sampler"),
        ({"kind": "flow", "sampler": "ddim"}, "task.sampler"),
        ({"kind": "ddpm", "sample_steps": 1001}, "task.sample_steps"),
    ],
)
def test_samplers_that_do_not_fit_are_named(task, key):
    with pytest.raises(ConfigError, match=key):
        built(**task)


@pytest.mark.parametrize("model", [{"name": "cnn"}, {"name": "dcgan", "width": 8}])
def test_models_that_are_called_otherwise_are_named(model):
    with pytest.raises(
        ConfigError, match=r"model\.name: .* is not called as model\(x_BHWC, time_B"
    ):
        built(model)


# --- the U-Net -------------------------------------------------------------------------------


def residual(inside, out, time=32):
    shortcut = inside * out + out if inside != out else 0
    convolutions = 9 * inside * out + out + 9 * out * out + out
    return 2 * inside + 2 * out + convolutions + time * out + out + shortcut


def test_parameters_by_hand():
    task, _ = built()
    clock = (8 * 32 + 32) + (32 * 32 + 32)
    down = (9 * 8 + 8) + residual(8, 8) + (9 * 64 + 8) + residual(8, 16)
    middle = 2 * residual(16, 16) + 2 * 16 + 4 * (16 * 16 + 16)
    up = residual(32, 16) + residual(24, 16) + (9 * 256 + 16) + residual(24, 8) + residual(16, 8)
    assert task.params.total == clock + down + middle + up + 2 * 8 + (9 * 8 + 1)


def test_rows_do_not_see_each_other_and_all_see_the_time():
    from scaling.models.unet import UNet

    model = UNet(**{k: v for k, v in MODEL.items() if k != "name"})
    _, variables = built()
    variables = shaken(variables)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    run = jax.jit(lambda x, t: model.apply(variables, x, t, train=False))
    times = jnp.array([0.1, 0.4, 0.6, 0.9])
    whole = run(images, times)
    np.testing.assert_allclose(whole[1:2], run(images[1:2], times[1:2]), atol=1e-4)
    later = run(images, times + jnp.array([0.0, 0.01, 0.0, 0.0]))
    assert float(jnp.abs(later - whole)[1].max()) > 1e-3
    np.testing.assert_allclose(later[2:], whole[2:], atol=1e-4)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"width": 12}, "model.width: 12 .*a multiple of 8"),
        ({"multipliers": (1, 1, 1, 1, 1)}, "model.multipliers"),
        ({"multipliers": ()}, "model.multipliers: is empty"),
        ({"num_heads": 3}, "model.num_heads"),
    ],
)
def test_sizes_that_do_not_divide_are_named(model, key):
    with pytest.raises(ConfigError, match=key):
        built(MODEL | model)
