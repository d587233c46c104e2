"""Inputs moved to raise the loss: accuracy under such an attack, and training on what it finds.

    eval.also = {"pgd": {"evaluation": "adversarial", "options": {"epsilon": 8 / 255, "steps": 10}}}
    task = {"name": "adversarial_training", "epsilon": 0.1, "over": {"name": "classification"}}

Pixels of images are moved, and the embeddings of texts (Miyato et al. 2017, 1605.07725), to which a
model must let itself be perturbed: `self.perturb("embedded", x_BTE)`.

Legend: B batch, x the other dimensions of what is moved, K classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from scaling.configs import ConfigError
from scaling.configs.types import NonNegativeFloat, PositiveFloat, PositiveInt, Probability
from scaling.ops.cross_entropy import cross_entropy
from scaling.tasks.base import (
    Batch,
    Context,
    Evaluation,
    Hparams,
    Loss,
    Task,
    TaskContext,
    Total,
    Variables,
    means,
    without_carry,
)
from scaling.tasks.losses import weighted

Norm = Literal["linf", "l2"]

# Below this a gradient or a step counts as zero, and has no direction.
TINY = 1e-12


class Space(NamedTuple):
    """What an attack moves.

    Attributes:
      shape: of a change, [B, x].
      cut: shortens a change to where inputs are still inputs.
      moved: (variables, change) -> (variables, batch) as the task is to see them.
    """

    shape: tuple[int, ...]
    cut: Callable[[jax.Array], jax.Array]
    moved: Callable[[Variables, jax.Array], tuple[Variables, Batch]]


def space(task: Task, variables: Variables, batch: Batch, context: Context) -> Space:
    """The pixels of images, 0 to 1, or the embeddings of texts where there is text.

    Raises:
      ConfigError: neither images nor a model that lets its embeddings be perturbed.
    """
    if "images" in batch:
        clean_BHWC = batch["images"].astype(jnp.float32) / 255.0
        return Space(
            clean_BHWC.shape,
            # Cutting to 0 to 1 only shortens a change, so it stays in the ball.
            lambda change: jnp.clip(clean_BHWC + change, 0.0, 1.0) - clean_BHWC,
            lambda of, change: (of, {**batch, "images": (clean_BHWC + change) * 255.0}),
        )
    inside = task.functions.get("perturbations", lambda *_: {})
    shapes = jax.eval_shape(lambda: inside(variables, batch, context))
    if "segments" not in batch or "embedded" not in shapes:
        raise ConfigError(
            "model.name",
            "an attack moves images, or embeddings of texts that the model lets be perturbed",
            'leave it out, or call self.perturb("embedded", x_BTE) in the model',
        )
    text_BT1 = (batch["segments"] > 0).astype(jnp.float32)[:, :, None]
    embedded = shapes["embedded"]

    def moved(of: Variables, change_BTE: jax.Array) -> tuple[Variables, Batch]:
        return {**of, "perturbations": {"embedded": change_BTE.astype(embedded.dtype)}}, batch

    return Space(embedded.shape, lambda change_BTE: change_BTE * text_BT1, moved)


@dataclasses.dataclass(frozen=True)
class Attack:
    """Projected gradient ascent on the loss of each example; fields as of `adversarial`."""

    epsilon: float
    norm: Norm
    steps: int
    step_size: float | None
    random_start: bool

    def __call__(
        self, task: Task, variables: Variables, batch: Batch, context: Context
    ) -> tuple[Variables, Batch]:
        """(variables, batch) with the inputs where the attack ends; no gradient flows through it.

        It sees the model as evaluation does, so it is as strong as its gradients are honest.
        """
        still = jax.lax.stop_gradient(variables)
        context = context._replace(train=False)
        within = space(task, variables, batch, context)
        length = self.step_size or self.epsilon * (1.0 if self.steps == 1 else 2.5 / self.steps)

        def loss(change_Bx: jax.Array) -> jax.Array:
            logits_BK = task.functions["logits"](*within.moved(still, change_Bx), context)
            return jnp.sum(cross_entropy(logits_BK, batch["labels"])[0])

        def project(change_Bx: jax.Array) -> jax.Array:
            return within.cut(in_ball(change_Bx, self.epsilon, self.norm))

        def ascend(_: int, change_Bx: jax.Array) -> jax.Array:
            return project(change_Bx + length * direction(jax.grad(loss)(change_Bx), self.norm))

        change_Bx = jnp.zeros(within.shape)
        if self.random_start:
            change_Bx = project(start(context.rng, within.shape, self.epsilon, self.norm))
        change_Bx = jax.lax.fori_loop(0, self.steps, ascend, change_Bx)
        return within.moved(variables, change_Bx)


def adversarial(
    task: Task,
    *,
    epsilon: NonNegativeFloat = 8 / 255,
    norm: Norm = "linf",
    steps: PositiveInt = 10,
    step_size: PositiveFloat | None = None,
    random_start: bool = True,
) -> Evaluation:
    """Accuracy on inputs that gradient ascent on the loss moved by at most `epsilon`.

    It reports `clean_accuracy`, `robust_accuracy` and `robust_loss`. One step of size epsilon without
    random start is the fast gradient sign method (Goodfellow et al. 2014, 1412.6572); the defaults
    are projected gradient descent (Madry et al. 2017, 1706.06083).

    Args:
      task: classifies images or texts and has the function "logits".
      epsilon: largest change, in images of 0 to 1, or in embeddings as they are.
      norm: in which a change is measured: of the largest value, or Euclidean over the example.
      steps: of ascent, each followed by projection onto the ball (and, of images, onto 0 to 1).
      step_size: length of a step; None is 2.5 epsilon / steps, or epsilon for a single step.
      random_start: begin at a random place of the ball, another for each batch.

    Raises:
      ConfigError: the task has no function "logits", or (when it runs) nothing that can be moved.
    """
    if "logits" not in task.functions:
        what = "adversarial attacks a task with logits, and this has none"
        raise ConfigError("evaluation", what, "leave it out")
    attack = Attack(epsilon, norm, steps, step_size, random_start)

    def run(variables: Variables, batch: Batch, context: Context) -> dict[str, Total]:
        def scores(variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
            """(loss of each example, whether it is right)."""
            logits_BK = task.functions["logits"](variables, batch, context)
            right_B = jnp.argmax(logits_BK, axis=-1) == batch["labels"]
            return cross_entropy(logits_BK, batch["labels"])[0], right_B.astype(jnp.float32)

        loss_B, robust_B = scores(*attack(task, variables, batch, context))
        values = {
            "clean_accuracy": scores(variables, batch)[1],
            "robust_accuracy": robust_B,
            "robust_loss": loss_B,
        }
        return weighted(values, batch["weights"])

    return Evaluation(without_carry(run), means)


def adversarial_training(
    context: TaskContext,
    base: Task,
    *,
    epsilon: NonNegativeFloat = 8 / 255,
    norm: Norm = "linf",
    steps: PositiveInt = 7,
    step_size: PositiveFloat | None = None,
    random_start: bool = True,
    clean: Probability = 0.0,
) -> Task:
    """Wraps a classifier: it learns from inputs that an attack has moved (Madry et al. 2017).

    A step costs `steps` + 1 times as much. Evaluation is on inputs as they are; for those of an
    attack see the evaluation `adversarial`, whose options have the same names. Augmentation goes
    outside of it: `augment` over `adversarial_training` over `classification`.

    Args: as of `adversarial`, and
      context: config and data; not used.
      base: a task with the function "logits".
      clean: share of the loss on inputs as they are (1/2 in Goodfellow et al. 2014).

    Raises:
      ConfigError: the task inside has no logits.
    """
    if "logits" not in base.functions:
        what = "adversarial_training attacks a task with logits, and this has none"
        raise ConfigError("task.over", what, "wrap classification")
    attack = Attack(epsilon, norm, steps, step_size, random_start)

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        if not context.train:
            return base.loss(variables, batch, context, hparams)
        # A key of its own: the task inside draws its dropout from context.rng.
        apart = context._replace(rng=jax.random.fold_in(context.rng, 2))
        moved = base.loss(*attack(base, variables, batch, apart), context, hparams)
        if not clean:
            return moved
        plain = base.loss(variables, batch, context, hparams)
        return plain._replace(sum=clean * plain.sum + (1.0 - clean) * moved.sum)

    # The base's cost knows nothing of the attack: FLOPs are counted from the traced loss.
    return dataclasses.replace(base, loss=loss, cost=None)


def direction(gradient_Bx: jax.Array, norm: Norm) -> jax.Array:
    """The step of length one that raises a linear loss most; zero where the gradient is."""
    if norm == "linf":
        return jnp.sign(gradient_Bx)
    return gradient_Bx / jnp.maximum(_length(gradient_Bx), TINY)


def in_ball(change_Bx: jax.Array, epsilon: float, norm: Norm) -> jax.Array:
    """The change, cut to the ball."""
    if norm == "linf":
        return jnp.clip(change_Bx, -epsilon, epsilon)
    return change_Bx * jnp.minimum(1.0, epsilon / jnp.maximum(_length(change_Bx), TINY))


def start(rng: jax.Array, shape: tuple[int, ...], epsilon: float, norm: Norm) -> jax.Array:
    """A random place of the ball: uniform in the cube, or a uniform direction and length."""
    if norm == "linf":
        return jax.random.uniform(rng, shape, minval=-epsilon, maxval=epsilon)
    towards, far = jax.random.split(rng)
    length_B1 = jax.random.uniform(far, (shape[0], *(1,) * (len(shape) - 1)), maxval=epsilon)
    return length_B1 * direction(jax.random.normal(towards, shape), norm)


def _length(x_Bx: jax.Array) -> jax.Array:
    """Euclidean norm of each example, [B, 1, ...]."""
    return jnp.sqrt(jnp.sum(jnp.square(x_Bx), axis=range(1, x_Bx.ndim), keepdims=True))
