"""The two players, against finite differences and the SVD; the distance against closed forms."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import IMAGE_INFO, context, image_batch, tiny_images

from scaling import parallel
from scaling.configs import ConfigError
from scaling.models.dcgan import DCGAN, SpectralConv
from scaling.tasks.base import build_task
from scaling.tasks.gan import discriminator_loss, energy_distance, generator_loss
from scaling.train.program import build_program

MODEL = {"name": "dcgan", "width": 8, "latent": 4}


def built(spectral_norm=False, **task):
    model = MODEL | {"spectral_norm": spectral_norm}
    config = tiny_images(task={"name": "gan", **task}, model=model)
    task = build_task(config, IMAGE_INFO, "cpu")
    return task, parallel.unbox(jax.jit(task.init)(jax.random.key(0)))


def test_parameters_by_hand():
    task, variables = built(spectral_norm=True)
    generator = (4 * 128 + 128) + 64 + (9 * 32 * 16 + 32) + (9 * 16 * 8 + 16) + (9 * 8 + 1)
    discriminator = (9 * 8 + 8) + (16 * 8 * 16 + 16) + (16 * 16 * 32 + 32) + (4 * 32 + 1)
    assert task.params.total == generator + discriminator
    assert set(variables) == {"params", "spectral"}
    assert [len(u) for u in jax.tree.leaves(variables["spectral"])] == [8, 16, 32, 1]


def test_losses_by_hand():
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-0.5, 3.0])
    np.testing.assert_allclose(discriminator_loss("hinge", real, fake), [0.5, 4.5])
    np.testing.assert_allclose(generator_loss("hinge", fake), [0.5, -3.0])
    probability = 1 / (1 + np.exp(-np.array([real, fake])))
    expected = -np.log(probability[0]) - np.log(1 - probability[1])
    np.testing.assert_allclose(
        discriminator_loss("non_saturating", real, fake), expected, rtol=1e-6
    )
    np.testing.assert_allclose(
        generator_loss("non_saturating", fake), -np.log(probability[1]), rtol=1e-6
    )


def test_each_player_follows_its_own_loss():
    """The gradient of the one sum against that of what the generator pays, and finite differences of
    what the discriminator pays."""
    r1 = 3.0
    task, variables = built(kind="hinge", r1=r1)
    params, batch = variables["params"], image_batch(0, rows=8)
    batch["weights"][6:] = 0.0

    @functools.partial(jax.jit, static_argnums=1)
    def paid(params, player):
        loss = task.loss(variables | {"params": params}, batch, context(True), {})
        totals = {name: total for name, (total, _) in loss.metrics.items()}
        penalty = r1 / 2 * totals["squared_slope"]
        return {
            "both": loss.sum,
            "generator": totals["g_loss"],
            "discriminator": totals["d_loss"] + penalty,
        }[player]

    gradient = jax.grad(paid)(params, "both")
    alone = jax.grad(paid)(params, "generator")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        gradient["generator"],
        alone["generator"],
    )
    assert float(optax.global_norm(alone["generator"])) > 0.1
    # All of it a little longer: no rectifier changes sides, as the biases are zero.
    player, step = params["discriminator"], 1e-3
    ends = [
        float(
            paid(
                params | {"discriminator": jax.tree.map(lambda p, f=factor: f * p, player)},
                "discriminator",
            )
        )
        for factor in (1 + step, 1 - step)
    ]
    terms = jax.tree.map(jnp.vdot, gradient["discriminator"], player)
    assert sum(jax.tree.leaves(terms)) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=5e-3)


def test_the_slope_is_that_of_finite_differences():
    task, variables = built(r1=1.0)
    model = DCGAN(width=8, latent=4)
    batch = image_batch(1, rows=1)
    score = jax.jit(lambda x: model.apply(variables, x, method="discriminate"))
    image, step = batch["images"].astype(np.float32) / 127.5 - 1, 1e-2
    nudges = np.eye(64, dtype=np.float32).reshape(64, 8, 8, 1) * step
    slopes = (score(image + nudges) - score(image - nudges)) / (2 * step)
    loss = scored(task, variables, batch, train=True)
    assert float(loss.metrics["squared_slope"][0]) == pytest.approx(
        float(np.sum(np.square(slopes))), rel=0.02
    )
    plain, _ = built()
    difference = loss.sum - scored(plain, variables, batch, train=True).sum
    assert float(difference) == pytest.approx(
        0.5 * float(loss.metrics["squared_slope"][0]), rel=1e-3
    )


def test_the_largest_singular_value_is_that_of_the_svd():
    layer = SpectralConv((3, 3), 6, 1, "conv_out", 1.0, True, "float32")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
    variables = nn.unbox(layer.init(jax.random.key(0), images))
    turn = jax.jit(lambda v: layer.apply(v, images, mutable=["spectral"]))
    before = variables["spectral"]["u"]
    for _ in range(60):
        result, state = turn(variables)
        variables = variables | state
    kernel = np.asarray(variables["params"]["kernel"])
    largest = np.linalg.svd(kernel.reshape(-1, 6), compute_uv=False)[0]
    plain = SpectralConv((3, 3), 6, 1, "conv_out", 1.0, False, "float32")
    scaled = {"params": {"kernel": kernel / largest, "bias": variables["params"]["bias"]}}
    np.testing.assert_allclose(result, plain.apply(scaled, images), atol=1e-5)
    # Not mutable, it stays; and it was not there from the start.
    np.testing.assert_allclose(layer.apply(variables, images), result, atol=1e-5)
    assert np.abs(np.abs(before @ variables["spectral"]["u"]) - 1) > 1e-3
    # Only the direction of a kernel counts, in the gradient too.
    gradient = jax.grad(lambda p: jnp.sum(layer.apply(variables | {"params": p}, images) ** 2))(
        variables["params"]
    )["kernel"]
    assert abs(float(jnp.vdot(gradient, kernel))) < 1e-3 * float(
        jnp.linalg.norm(gradient) * np.linalg.norm(kernel)
    )


def scored(task, variables, batch, train, seed=0):
    return jax.jit(lambda b, s: task.loss(variables, b, context(train, s), {}))(batch, seed)


def test_its_state_advances_in_training_only_and_once_however_the_batch_is_cut():
    model, task = MODEL | {"spectral_norm": True}, {"name": "gan"}
    config = tiny_images(**{"task": task, "model": model, "train.accumulate": 4})
    mesh = parallel.make_mesh(config.mesh, jax.devices()[:1])
    program = build_program(config, IMAGE_INFO, mesh)
    start, batch = program.fresh_state(), image_batch(0)
    variables = jax.device_get(start.variables())
    whole = [scored(program.task, variables, batch, train) for train in (False, True)]
    jax.tree.map(np.testing.assert_array_equal, whole[0].state["spectral"], variables["spectral"])
    state, metrics = program.step(start, batch, program.hparams())
    # The draws of each microbatch are of its own, the vectors of the power iteration are not.
    assert np.isfinite(metrics["loss"])
    after = state.model_state["spectral"]
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, after, dict(whole[1].state["spectral"]))
    assert not np.allclose(jax.tree.leaves(after)[1], jax.tree.leaves(variables["spectral"])[1])


def mean_size(mean, deviation):
    """E|z| of a normal z."""
    from scipy.stats import norm

    part = mean * (1 - 2 * norm.cdf(-mean / deviation))
    return deviation * np.sqrt(2 / np.pi) * np.exp(-(mean**2) / (2 * deviation**2)) + part


def test_the_energy_distance_of_two_normal_variables():
    rows, shift = 1500, 1.5
    x, y = jax.random.normal(jax.random.key(0), (2, rows, 1, 1, 1))
    weights = jnp.ones(rows)
    expected = 2 * mean_size(shift, 2**0.5) - 2 * mean_size(0.0, 2**0.5)
    assert float(energy_distance(x, y + shift, weights)) == pytest.approx(expected, rel=0.08)
    # Of the root mean square: the same for an image of ten equal pixels.
    wide = jnp.broadcast_to(x, (rows, 1, 10, 1)), jnp.broadcast_to(y, (rows, 1, 10, 1)) + shift
    assert float(energy_distance(*wide, weights)) == pytest.approx(expected, rel=0.08)


def test_the_energy_distance_has_no_bias_in_small_batches_and_no_padding():
    pairs = jax.random.normal(jax.random.key(0), (2000, 2, 4, 2, 2, 1))
    each = jax.vmap(lambda p: energy_distance(p[0], p[1], jnp.ones(4)))(pairs)
    assert abs(float(jnp.mean(each))) < 4 * float(jnp.std(each)) / 2000**0.5
    assert float(jnp.std(each)) > 0.01
    padded = jnp.pad(pairs[0], ((0, 0), (0, 3), (0, 0), (0, 0), (0, 0)), constant_values=9.0)
    weights = jnp.array([1.0] * 4 + [0.0] * 3)
    assert float(energy_distance(*padded, weights)) == pytest.approx(float(each[0]), abs=1e-6)


def test_a_batch_of_a_single_image_gives_no_distance():
    """It would count as 0, the best there is."""
    task, variables = built()
    batch = image_batch(0, rows=8)
    batch["weights"][1:] = 0.0
    assert [float(x) for x in scored(task, variables, batch, False).metrics[task.objective]] == [
        0,
        0,
    ]
    batch["weights"][1] = 1.0
    assert float(scored(task, variables, batch, False).metrics[task.objective][1]) == 2.0
    with pytest.raises(ConfigError, match=r"eval\.batch_size: 1 leaves no two images"):
        scored(task, variables, image_batch(0, rows=1), train=False)


def test_samples_are_pixels_and_a_function_of_the_key():
    task, variables = built()
    sample = jax.jit(task.functions["sample"], static_argnums=2)
    first = sample(variables, jax.random.key(1), 5)
    assert first.shape == (5, 8, 8, 1)
    assert first.dtype == jnp.uint8
    np.testing.assert_array_equal(first, sample(variables, jax.random.key(1), 5))
    assert (first != sample(variables, jax.random.key(2), 5)).any()
    score = jax.jit(lambda seed: task.loss(variables, image_batch(0), context(False, seed), {}))
    distances = [float(score(seed).metrics[task.objective][0]) for seed in (0, 0, 1)]
    assert distances[0] == distances[1] != distances[2]


def test_models_without_two_players_are_named():
    with pytest.raises(
        ConfigError, match=r"model\.name: cnn has no latent, which task\.name=gan needs"
    ):
        build_task(tiny_images(task={"name": "gan"}), IMAGE_INFO, "cpu")


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(ConfigError, match=r"model\.width: 12 .*a multiple of 8"):
        tiny_images(task={"name": "gan"}, model=MODEL | {"width": 12})
    info = dataclasses.replace(IMAGE_INFO, image_shape=(8, 10, 1))
    with pytest.raises(ConfigError, match=r"data\.source: gives images of 8 x 10"):
        build_task(tiny_images(task={"name": "gan"}, model=MODEL), info, "cpu")
