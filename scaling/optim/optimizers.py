"""The optimizers: their keys in the config, and the optax chain that they stand for.

Each is a frozen dataclass; its fields are the keys of section `optim`. Every field that holds a
float is a hyper-parameter: at run time it is an argument of the compiled step, so that one
executable serves all values and runs that differ in them can be stacked by `jax.vmap`.

Weight decay is decoupled everywhere: a step subtracts learning_rate * weight_decay * parameter
(Loshchilov & Hutter 2019, with the learning rate multiplied in as in PyTorch and optax). The
schedule therefore moves decay along with the learning rate.

An optimizer of your own is such a dataclass (`optim.name = "my_package.my_module:Class"`) with a
method `transform`, or any function that returns an optax transformation (`"optax:lamb"`): its float
arguments are hyper-parameters, and an argument `learning_rate` is multiplied by the schedule.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from scaling.configs.types import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from scaling.optim import groups
from scaling.parallel.sharding import PyTree

Number = jax.Array | float
Hparams = Mapping[str, Number]  # float32[] each in a step
Rate = Callable[[Number], Number]  # peak -> learning rate of this step

MomentDtype = Literal["float32", "bfloat16"]


class UpdateRule(Protocol):
    """A dataclass of hyper-parameters that makes an optax transformation."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def transform(self, h: Hparams, rate: Rate, names: PyTree) -> optax.GradientTransformation:
        """The update without clipping.

        Args:
          h: the values of the fields that hold floats, as arrays.
          rate: peak -> learning rate of this step.
          names: logical axis names of every parameter.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decayed:
    """An update, then decoupled weight decay, then the learning rate.

    A subclass has `learning_rate` and `weight_decay`.

    Attributes:
      decay_mask: `matrices` leaves out norms, biases and other vectors.
      clip_norm: largest global norm of the gradient; None does not clip.
      moment_dtype: in which the first moment, or the momentum, is kept.
    """

    decay_mask: groups.DecayMask = "matrices"
    clip_norm: PositiveFloat | None = 1.0
    moment_dtype: MomentDtype = "float32"

    def updates(self, h: Hparams, names: PyTree) -> list[optax.GradientTransformation]:
        """What comes before weight decay; arguments as of `transform`."""
        raise NotImplementedError

    def transform(self, h: Hparams, rate: Rate, names: PyTree) -> optax.GradientTransformation:
        """The update without clipping; see `UpdateRule`."""
        return optax.chain(
            *self.updates(h, names),
            groups.decay_weights(h["weight_decay"], self.decay_mask, names),
            optax.scale(-rate(h["learning_rate"])),
        )


@dataclasses.dataclass(frozen=True)
class AdamW(Decayed):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Attributes:
      learning_rate: peak of the schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: times the learning rate, see the module.
    """

    learning_rate: NonNegativeFloat = 1e-3
    b1: Fraction = 0.9
    b2: Fraction = 0.95
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1

    def updates(self, h: Hparams, names: PyTree) -> list[optax.GradientTransformation]:
        """See `Decayed`."""
        return [optax.scale_by_adam(h["b1"], h["b2"], h["eps"], mu_dtype=self.moment_dtype)]


@dataclasses.dataclass(frozen=True)
class Muon(Decayed):
    """Orthogonalised momentum for matrices, AdamW for all else (Jordan et al. 2024).

    All else: embeddings, head, norms, biases (see `groups.muon_dims`). Stacked layers are
    orthogonalised one by one.

    Attributes:
      learning_rate: peak for matrices.
      momentum: decay of the momentum.
      nesterov: whether to look one step ahead.
      newton_schulz_steps: iterations of the quintic polynomial.
      update_scale: how the size of an update depends on the shape, see `groups.scale_by_shape`.
      weight_decay: of matrices; times their learning rate.
      adam_learning_rate: peak for all else; same schedule.
      adam_b1: as of AdamW.
      adam_b2: as of AdamW.
      eps: as of AdamW, and in the norm by which Muon divides.
      adam_weight_decay: of all else; times its learning rate.
      decay_mask: which of all else is decayed; `matrices` means embeddings and head.
    """

    learning_rate: NonNegativeFloat = 0.02
    momentum: Fraction = 0.95
    nesterov: bool = True
    newton_schulz_steps: PositiveInt = 5
    update_scale: Literal["width", "rms"] = "width"
    weight_decay: NonNegativeFloat = 0.01
    adam_learning_rate: NonNegativeFloat = 3e-3
    adam_b1: Fraction = 0.9
    adam_b2: Fraction = 0.95
    eps: NonNegativeFloat = 1e-8
    adam_weight_decay: NonNegativeFloat = 0.0

    def transform(self, h: Hparams, rate: Rate, names: PyTree) -> optax.GradientTransformation:
        """The update without clipping; see `UpdateRule`."""
        matrices = optax.chain(
            optax.contrib.scale_by_muon(
                ns_steps=self.newton_schulz_steps,
                beta=h["momentum"],
                eps=h["eps"],
                mu_dtype=self.moment_dtype,
                nesterov=self.nesterov,
                weight_dimension_numbers=lambda u: groups.map_arrays(groups.muon_dims, u, names),
            ),
            groups.scale_by_shape(self.update_scale, names),
            groups.decay_weights(h["weight_decay"], "all", names),
            optax.scale(-rate(h["learning_rate"])),
        )
        rest = optax.chain(
            optax.scale_by_adam(h["adam_b1"], h["adam_b2"], h["eps"], mu_dtype=self.moment_dtype),
            groups.decay_weights(h["adam_weight_decay"], self.decay_mask, names),
            optax.scale(-rate(h["adam_learning_rate"])),
        )

        def label(p: jax.Array, n: groups.AxisNames) -> str:
            return "adam" if groups.muon_dims(p, n) is None else "muon"

        return optax.partition(
            {"muon": matrices, "adam": rest}, lambda p: groups.map_arrays(label, p, names)
        )


@dataclasses.dataclass(frozen=True)
class Adafactor(Decayed):
    """Factored second moments, updates relative to the parameter (Shazeer & Stern 2018).

    The second moment of an array is kept as row and column means over its two largest dimensions
    if both have at least `min_dim_size_to_factor`. Root mean squares are of one layer, also where
    layers are stacked.

    Attributes:
      learning_rate: peak of the schedule; relative to the parameter's root mean square if
        `scale_parameter`.
      decay_rate: the second moment's decay at step t (from 1) is 1 - t ** -decay_rate.
      eps: added to the squared gradient.
      update_clip: largest root mean square of a parameter's update.
      scale_parameter: multiply updates by the parameter's root mean square.
      min_scale: the least of that root mean square.
      momentum: decay of an average of updates; None keeps none.
      min_dim_size_to_factor: smaller dimensions are not factored.
      weight_decay: times the learning rate, see the module.
    """

    learning_rate: NonNegativeFloat = 1e-2
    decay_rate: PositiveFloat = 0.8
    eps: NonNegativeFloat = 1e-30
    update_clip: PositiveFloat = 1.0
    scale_parameter: bool = True
    min_scale: NonNegativeFloat = 1e-3
    momentum: Fraction | None = None
    min_dim_size_to_factor: PositiveInt = 128
    weight_decay: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = dataclasses.field(default=None, kw_only=True)

    def updates(self, h: Hparams, names: PyTree) -> list[optax.GradientTransformation]:
        """See `Decayed`."""

        def resize(u: jax.Array, p: jax.Array, n: groups.AxisNames) -> jax.Array:
            u = u / jnp.maximum(1.0, groups.root_mean_square(u, n) / h["update_clip"])
            if self.scale_parameter:
                u = u * jnp.maximum(groups.root_mean_square(p, n), h["min_scale"])
            return u

        chain = [
            optax.scale_by_factored_rms(
                decay_rate=h["decay_rate"],
                epsilon=h["eps"],
                min_dim_size_to_factor=self.min_dim_size_to_factor,
            ),
            optax.stateless(lambda updates, params: jax.tree.map(resize, updates, params, names)),
        ]
        if self.momentum is not None:
            dtype = self.moment_dtype
            chain.append(optax.ema(h["momentum"], debias=False, accumulator_dtype=dtype))
        return chain


@dataclasses.dataclass(frozen=True)
class Lion(Decayed):
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675).

    Attributes:
      learning_rate: peak of the schedule; usually 3 to 10 times less than AdamW's.
      b1: weight of the momentum in the sign.
      b2: decay of the momentum.
      weight_decay: times the learning rate; usually 3 to 10 times more than AdamW's.
    """

    learning_rate: NonNegativeFloat = 2e-4
    b1: Fraction = 0.9
    b2: Fraction = 0.99
    weight_decay: NonNegativeFloat = 0.5

    def updates(self, h: Hparams, names: PyTree) -> list[optax.GradientTransformation]:
        """See `Decayed`."""
        return [optax.scale_by_lion(h["b1"], h["b2"], mu_dtype=self.moment_dtype)]


@dataclasses.dataclass(frozen=True)
class Sgd(Decayed):
    """Gradient descent with momentum, m = momentum * m + gradient (Sutskever et al. 2013).

    Attributes:
      learning_rate: peak of the schedule.
      momentum: decay of the momentum, which is a sum, not an average; None keeps none.
      nesterov: whether to look one step ahead.
      weight_decay: decoupled, not in the momentum; times the learning rate.
    """

    learning_rate: NonNegativeFloat = 0.1
    momentum: Fraction | None = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = dataclasses.field(default=None, kw_only=True)

    def updates(self, h: Hparams, names: PyTree) -> list[optax.GradientTransformation]:
        """See `Decayed`."""
        if self.momentum is None:
            return [optax.identity()]
        return [optax.trace(h["momentum"], self.nesterov, accumulator_dtype=self.moment_dtype)]


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Leaves parameters as they are; no gradient is computed for them."""


@dataclasses.dataclass(frozen=True)
class Optax:
    """A function that returns an optax transformation, as a rule.

    Attributes:
      function: called anew in every step, with hyper-parameters as arrays.
      arguments: what the config says of it.
    """

    function: Callable[..., optax.GradientTransformation]
    arguments: Mapping[str, Any]

    def transform(self, h: Hparams, rate: Rate, names: PyTree) -> optax.GradientTransformation:
        """The update; see `scaling.optim.build`."""
        arguments = {**self.arguments, **h}
        if "learning_rate" in arguments:
            arguments["learning_rate"] = rate(arguments["learning_rate"])
        return self.function(**arguments)
