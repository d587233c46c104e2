"""Accuracy under attack: the fast gradient sign method and projected gradient descent.

    eval.also = {"pgd": {"evaluation": "adversarial", "options": {"epsilon": 8 / 255, "steps": 10}}}

Legend: B batch, H height, W width, C channels, K classes.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from scaling.configs import ConfigError
from scaling.configs.types import NonNegativeFloat, PositiveFloat, PositiveInt
from scaling.ops.cross_entropy import cross_entropy
from scaling.parallel.sharding import PyTree
from scaling.tasks.base import Batch, Context, Evaluation, Task, Total, Variables, means

Norm = Literal["linf", "l2"]

# Below this a gradient or a step counts as zero, and has no direction.
TINY = 1e-12


def adversarial(
    task: Task,
    *,
    epsilon: NonNegativeFloat = 8 / 255,
    norm: Norm = "linf",
    steps: PositiveInt = 10,
    step_size: PositiveFloat | None = None,
    random_start: bool = True,
) -> Evaluation:
    """Accuracy on images that gradient ascent on the loss moved by at most `epsilon`.

    It reports `clean_accuracy`, `robust_accuracy` and `robust_loss`. One step of size epsilon without
    random start is the fast gradient sign method (Goodfellow et al. 2014, 1412.6572); the defaults
    are projected gradient descent (Madry et al. 2017, 1706.06083). The attack sees the model as
    evaluation does, so it is as strong as its gradients are honest.

    Args:
      task: classifies `images` (0 to 255) and has the function "logits".
      epsilon: largest change, in images of 0 to 1.
      norm: in which a change is measured: of the largest value, or Euclidean over the image.
      steps: of ascent, each followed by projection onto the ball and onto 0 to 1.
      step_size: length of a step; None is 2.5 epsilon / steps, or epsilon for a single step.
      random_start: begin at a random place of the ball, another for each batch.

    Raises:
      ConfigError: the task has no function "logits", or (when it runs) no images.
    """
    what = "adversarial attacks a task with images and logits"
    if "logits" not in task.functions:
        raise ConfigError("evaluation", what, "leave it out")
    logits = task.functions["logits"]
    length = step_size or (epsilon if steps == 1 else 2.5 * epsilon / steps)

    def run(
        variables: Variables, batch: Batch, context: Context, carry: PyTree
    ) -> tuple[dict[str, Total], PyTree]:
        if "images" not in batch:
            raise ConfigError("eval.also", what, "leave it out")
        labels_B, weights_B = batch["labels"], batch["weights"]
        clean_BHWC = batch["images"].astype(jnp.float32) / 255.0

        def scores(images_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
            """(loss of each image, whether it is right)."""
            seen = {**batch, "images": images_BHWC * 255.0}
            logits_BK = logits(variables, seen, context)
            right_B = jnp.argmax(logits_BK, axis=-1) == labels_B
            return cross_entropy(logits_BK, labels_B)[0], right_B.astype(jnp.float32)

        def ascend(_: int, change_BHWC: jax.Array) -> jax.Array:
            gradient_BHWC = jax.grad(lambda x: jnp.sum(scores(x)[0]))(clean_BHWC + change_BHWC)
            change_BHWC = change_BHWC + length * direction(gradient_BHWC, norm)
            return projected(change_BHWC, clean_BHWC, epsilon, norm)

        change_BHWC = jnp.zeros_like(clean_BHWC)
        if random_start:
            change_BHWC = start(context.rng, clean_BHWC.shape, epsilon, norm)
            change_BHWC = projected(change_BHWC, clean_BHWC, epsilon, norm)
        change_BHWC = jax.lax.fori_loop(0, steps, ascend, change_BHWC)
        loss_B, robust_B = scores(clean_BHWC + change_BHWC)
        weight = jnp.sum(weights_B)
        values = {
            "clean_accuracy": scores(clean_BHWC)[1],
            "robust_accuracy": robust_B,
            "robust_loss": loss_B,
        }
        return {k: (jnp.sum(weights_B * v_B), weight) for k, v_B in values.items()}, carry

    return Evaluation(run, means)


def direction(gradient_BHWC: jax.Array, norm: Norm) -> jax.Array:
    """The step of length one that raises a linear loss most; zero where the gradient is."""
    if norm == "linf":
        return jnp.sign(gradient_BHWC)
    return gradient_BHWC / jnp.maximum(_length(gradient_BHWC), TINY)


def projected(
    change_BHWC: jax.Array, clean_BHWC: jax.Array, epsilon: float, norm: Norm
) -> jax.Array:
    """The change, cut to the ball, and to where the image is still one of 0 to 1."""
    if norm == "linf":
        change_BHWC = jnp.clip(change_BHWC, -epsilon, epsilon)
    else:
        length_B111 = jnp.maximum(_length(change_BHWC), TINY)
        change_BHWC = change_BHWC * jnp.minimum(1.0, epsilon / length_B111)
    # Cutting to 0 to 1 only shortens a change, so it stays in the ball.
    return jnp.clip(clean_BHWC + change_BHWC, 0.0, 1.0) - clean_BHWC


def start(rng: jax.Array, shape: tuple[int, ...], epsilon: float, norm: Norm) -> jax.Array:
    """A random place of the ball: uniform in the cube, or a uniform direction and length."""
    if norm == "linf":
        return jax.random.uniform(rng, shape, minval=-epsilon, maxval=epsilon)
    towards, far = jax.random.split(rng)
    length_B111 = jax.random.uniform(far, (shape[0], 1, 1, 1), maxval=epsilon)
    return length_B111 * direction(jax.random.normal(towards, shape), norm)


def _length(x_BHWC: jax.Array) -> jax.Array:
    """Euclidean norm of each image, [B, 1, 1, 1]."""
    return jnp.sqrt(jnp.sum(jnp.square(x_BHWC), axis=(1, 2, 3), keepdims=True))
