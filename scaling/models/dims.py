"""Sizes that follow from other sizes; shared by the modules and by the FLOP counts. No JAX."""

from scaling.configs.dump import get
from scaling.configs.errors import ConfigError
from scaling.experiment import Experiment

GATED = ("swiglu", "geglu")


def known(key: str, size: int | None) -> int:
    """A size that the data give where the config leaves it open, by its key in section `model`.

    Raises:
      ValueError: neither did.
    """
    if size is None:
        raise ValueError(f"model.{key} is not set and the data gave none")
    return size


def head_dim(model_dim: int, num_heads: int, explicit: int | None = None) -> int:
    """Width of one attention head: `explicit`, or model_dim / num_heads.

    Raises:
      ConfigError: model_dim does not divide by num_heads and no head_dim is given.
    """
    if explicit is not None:
        return explicit
    if model_dim % num_heads:
        raise ConfigError(
            "model.num_heads",
            f"{num_heads} does not divide model.model_dim={model_dim}",
            f"give {divisor_near(num_heads, model_dim)}, or set model.head_dim",
        )
    return model_dim // num_heads


def num_kv_heads(num_heads: int, explicit: int | None = None) -> int:
    """Key/value heads: `explicit`, or as many as query heads.

    Raises:
      ConfigError: the query heads do not divide into groups, one for each key/value head.
    """
    if explicit is None:
        return num_heads
    if num_heads % explicit:
        raise ConfigError(
            "model.num_kv_heads",
            f"{explicit} does not divide model.num_heads={num_heads}",
            f"give {divisor_near(explicit, num_heads)}",
        )
    return explicit


def mlp_dim(model_dim: int, mlp: str, explicit: int | None = None) -> int:
    """Hidden width of the feed-forward block: `explicit`, or by the usual rule.

    Four times the width; for gated forms 8/3 of it, so that three matrices hold what two did
    (Shazeer 2020, 2002.05202), rounded up to a multiple of 64 to fill matrix units.
    """
    if explicit is not None:
        return explicit
    if mlp in GATED:
        return -(-8 * model_dim // (3 * 64)) * 64
    return 4 * model_dim


def heads_divide(config: Experiment) -> None:
    """Raises ConfigError where `head_dim` and `num_kv_heads` would, before anything is built."""
    heads, width = get(config, "model.num_heads"), get(config, "model.model_dim")
    if heads is not None:
        num_kv_heads(heads, get(config, "model.num_kv_heads"))
    if heads is not None and width is not None:
        head_dim(width, heads, get(config, "model.head_dim"))


def divisor_near(wanted: int, number: int) -> int:
    """The divisor of `number` nearest to `wanted`."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return min(divisors, key=lambda n: abs(n - wanted))
