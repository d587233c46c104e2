"""Model sizes by a stated rule, and which of them is expected to be best at a budget."""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scaling.configs import ConfigError

Optimum = Callable[[float], float]  # FLOPs -> params


def widths(low: int, high: int, count: int, multiple: int = 8) -> tuple[int, ...]:
    """Widths spaced evenly in their logarithm, rounded to a multiple; fewer where two coincide.

    Raises:
      ConfigError: the range is empty, or there are fewer than two widths.
    """
    if not 0 < low <= high or count < 1 or (count == 1 and low != high):
        raise ConfigError(
            "widths", f"{count} widths from {low} to {high} do not exist",
            "give 0 < low < high and a count of at least 2",
        )  # fmt: skip
    spaced = [low * (high / low) ** (i / max(1, count - 1)) for i in range(count)]
    return tuple(dict.fromkeys(max(multiple, round(w / multiple) * multiple) for w in spaced))


def ladder(
    model_dims: Iterable[int], *, aspect: float = 32.0, head_dim: int = 16, min_layers: int = 1
) -> tuple[Mapping[str, Any], ...]:
    """Sizes of a Transformer: depth and heads follow from the width.

    Args:
      model_dims: widths.
      aspect: width over depth; layers = round(width / aspect), at least `min_layers`.
      head_dim: width of a head; heads = width / head_dim.
      min_layers: the least depth.

    Returns:
      Settings of `model.model_dim`, `model.num_layers` and `model.num_heads`, one a size.

    Raises:
      ConfigError: a width is no multiple of `head_dim`.
    """
    sizes = []
    for width in model_dims:
        if width % head_dim:
            raise ConfigError(
                "ladder", f"width {width} is not a multiple of head_dim={head_dim}",
                "give widths(..., multiple=head_dim), or another head_dim",
            )  # fmt: skip
        sizes.append(
            {
                "model.model_dim": width,
                "model.num_layers": max(min_layers, round(width / aspect)),
                "model.num_heads": width // head_dim,
            }
        )
    return tuple(sizes)


def chinchilla(tokens_per_param: float = 20.0) -> Optimum:
    """D = 20 N (Hoffmann et al. 2022), so N* = sqrt(C / 120) by C = 6 N D."""
    return lambda flops: math.sqrt(flops / (6.0 * tokens_per_param))


def power_rule(params: float, flops: float, exponent: float = 0.5) -> Optimum:
    """N* = params (C / flops)^exponent: through one point that is known."""
    return lambda budget: params * (budget / flops) ** exponent


def from_fit(path: str | pathlib.Path) -> Optimum:
    """The optimum of an earlier fit: `fit.json` of law `chinchilla`, by C = 6 N D.

    Raises:
      ConfigError: there is no such fit, or it is of another law.
    """
    try:
        parameters = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["parameters"]
        a, b, alpha, beta = (float(parameters[name]) for name in ("A", "B", "alpha", "beta"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "from_fit", f"{path} is no fit of law chinchilla ({type(error).__name__}: {error})",
            "name the fit.json that python -m scaling.fit --law=chinchilla wrote",
        ) from error  # fmt: skip
    scale = (alpha * a / (beta * b)) ** (1.0 / (alpha + beta))
    return lambda flops: scale * (flops / 6.0) ** (beta / (alpha + beta))
