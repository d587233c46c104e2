"""Speech recognisers: padding changes nothing, no row sees another, parameters counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.configs.errors import ConfigError
from scaling.models.speech import Conformer, SpeechGRU

BANDS, VOCAB, WIDTH, CHANNELS = 10, 7, 16, 4
SIZES = {"vocab_size": VOCAB, "channels": CHANNELS, "model_dim": WIDTH, "dropout": 0.0}
MODELS = {
    "gru": SpeechGRU(**SIZES, num_layers=1, time_strides=(2, 2)),
    "conformer": Conformer(**SIZES, num_layers=1, num_heads=2, kernel_size=5, time_strides=(2, 1)),
}
FRAMES_B = jnp.array([21, 9])  # odd: strides meet the end of an utterance in the middle


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    model, rng = MODELS[request.param], np.random.default_rng(0)
    features_BTM = rng.normal(size=(2, 21, BANDS)).astype(np.float32)
    features_BTM *= (np.arange(21) < np.array(FRAMES_B)[:, None])[..., None]
    # No zeros among the parameters: a bias of zero hides what padding does.
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes(model))
    apply = jax.jit(lambda x, frames: model.apply({"params": params}, x, frames, train=False))
    return model, features_BTM, apply


def shapes(model):
    def init(rng):
        example = jnp.zeros((1, 21, BANDS)), jnp.array([21])
        return model.init(rng, *example, train=False, mutable=["params"])["params"]

    boxed = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: x.value, boxed, is_leaf=lambda x: hasattr(x, "names"))


def test_padding_further_changes_no_logit_of_a_frame(case):
    model, features_BTM, apply = case
    short = apply(features_BTM, FRAMES_B)
    assert short.shape == (2, model.encoder_frames(21), VOCAB)
    # To an even length from an odd one: strides must not depend on it.
    long = apply(np.pad(features_BTM, ((0, 0), (0, 11), (0, 0))), FRAMES_B)
    for row, frames in enumerate(FRAMES_B):
        count = model.encoder_frames(int(frames))
        np.testing.assert_allclose(long[row, :count], short[row, :count], atol=2e-5)
    # The check would see it: with another number of frames the logits are others.
    other = apply(features_BTM, FRAMES_B - 4)
    assert np.abs(other[1, :1] - short[1, :1]).max() > 1e-3


def test_every_frame_sees_the_whole_utterance_and_no_other(case):
    model, features_BTM, apply = case

    @jax.jit
    def grad(frame):
        return jax.grad(lambda x_BTM: jnp.sum(apply(x_BTM, FRAMES_B)[1, frame] ** 2))(features_BTM)

    for frame in (0, model.encoder_frames(9) - 1):
        grad_BTM = np.asarray(grad(frame))
        assert not grad_BTM[0].any()
        assert np.abs(grad_BTM[1, :9]).max(axis=-1).all()


@pytest.mark.parametrize("name", MODELS)
def test_parameters_by_hand(name):
    model = MODELS[name].clone(num_layers=2)
    bands, width = 3, WIDTH  # 10 bands, 5, 3
    ends = 9 * CHANNELS + CHANNELS + 9 * CHANNELS**2 + CHANNELS
    ends += bands * CHANNELS * width + width + 2 * width  # project, and its norm
    ends += width * VOCAB + VOCAB
    half = width // 2
    gru = 2 * width + 2 * (width * 3 * half + half * 3 * half + 3 * half)
    feed_forward = 2 * (4 * width**2) + 4 * width + width + 2 * width
    attention = 4 * (width**2 + width) + 2 * width
    convolution = 2 * width**2 + 2 * width + 5 * width + width**2 + width + 2 * (2 * width)
    conformer = 2 * feed_forward + attention + convolution + 2 * width
    layers = {"gru": 2 * gru + 2 * width, "conformer": 2 * conformer}[name]
    assert sum(x.size for x in jax.tree.leaves(shapes(model))) == ends + layers


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MODELS["conformer"].clone(kernel_size=4), r"kernel_size(?s:.*)make it odd"),
        (MODELS["conformer"].clone(num_heads=16), r"model\.num_heads(?s:.*)twice the heads"),
        (MODELS["conformer"].clone(num_heads=3), r"model\.num_heads(?s:.*)twice the heads"),
        (MODELS["gru"].clone(model_dim=15), r"model_dim(?s:.*)make it even"),
    ],
)
def test_sizes_that_cannot_be_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        shapes(model)
