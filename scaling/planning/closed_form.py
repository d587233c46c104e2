"""Memory and time of a candidate without compiling it: to prune and to order, never to decide.

The memory is a lower bound as far as it goes (state, what layers keep, logits, one layer's gathered
parameters); a candidate whose bound is above the limit is not worth a compile.
"""

import dataclasses
import math
from typing import Any

from scaling import configs
from scaling.models import dims

# What a layer keeps for the backward pass, in widths a token: multiples of D (model), H (heads times
# head width), G (key/value heads times head width) and F (hidden, once per input matrix); and the
# share of the forward pass that is done again.
KEPT: dict[str, tuple[dict[str, float], float]] = {
    "none": ({"D": 6, "H": 3, "G": 3, "F": 2}, 0.0),
    "dots_attention": ({"D": 2, "H": 2, "G": 2, "F": 1}, 0.0),
    "dots": ({"D": 2, "H": 1, "G": 2, "F": 1}, 0.07),
    "dots_except_mlp": ({"D": 2, "H": 1, "G": 2}, 0.55),
    "save_attention_mlp": ({"D": 1, "H": 1, "F": 1}, 0.33),
    "save_mlp": ({"D": 1, "F": 1}, 0.4),
    "save_attention": ({"D": 1, "H": 1}, 0.85),
    "full": ({"D": 1}, 0.92),
}
FLOAT32, BFLOAT16 = 4, 2


@dataclasses.dataclass(frozen=True)
class Rates:
    """Peak rates of one device; of hardware without known rates any in a common ratio will do."""

    flops: float = 1e13
    bandwidth: float = 1e11
    link: float = 1e10


@dataclasses.dataclass(frozen=True)
class Sketch:
    """A candidate's numbers: bytes on a device at the least, seconds of a step about."""

    bytes: float
    seconds: float


def sketch(
    config: Any, mesh: dict[str, int], params: int, flops: float, optimizer: float, rates: Rates
) -> Sketch:
    """The numbers of one candidate.

    Args:
      config: resolved; of a Transformer. For other models only the state is counted.
      mesh: {axis: size}.
      params: parameters.
      flops: model FLOPs of a step, over all devices.
      optimizer: bytes of optimizer state per byte of parameters.
      rates: of a device.
    """
    devices = math.prod(mesh.values())
    parts = mesh["replica"] * mesh["data"] * mesh["fsdp"]
    split = mesh["fsdp"] * mesh["tensor"]
    accumulate = config.train.accumulate
    state = params * FLOAT32 * (1 + optimizer) / split
    gradients = params * (FLOAT32 if accumulate > 1 else BFLOAT16) / split
    length = configs.get(config, "data.text.seq_len", 1)
    tokens = config.train.batch_size / parts / accumulate * length
    kept, again = _kept(config, tokens, mesh["tensor"])
    layer = params * BFLOAT16 / max(1, configs.get(config, "model.num_layers", 1)) / mesh["tensor"]
    memory = state + gradients + kept + (layer if mesh["fsdp"] > 1 else 0.0)
    compute = flops / devices * (1 + again / 3) / rates.flops
    gathers = 2.0 + (again > 0.3)
    moved = params * BFLOAT16 / mesh["tensor"]
    link = moved * gathers * accumulate * (mesh["fsdp"] > 1)
    link += 2 * moved * (parts > 1) * (accumulate if mesh["fsdp"] > 1 else 1)
    if mesh["tensor"] > 1:
        width = configs.get(config, "model.model_dim", 1)
        layers = configs.get(config, "model.num_layers", 1)
        link += 8 * layers * width * tokens * accumulate * BFLOAT16
    traffic = 3 * state + 4 * kept * accumulate
    seconds = max(compute, link / rates.link, traffic / rates.bandwidth)
    return Sketch(memory, seconds + 0.2 * (compute + link / rates.link + traffic / rates.bandwidth))


def _kept(config: Any, tokens: float, tensor: int) -> tuple[float, float]:
    """(bytes kept for the backward pass and the logits, share of the forward pass done again)."""
    model = config.model
    if configs.get(config, "model.model_dim") is None or configs.get(config, "model.remat") is None:
        return 0.0, 0.0
    width, heads = model.model_dim, model.num_heads
    head = dims.head_dim(width, heads, model.head_dim)
    groups = dims.num_kv_heads(heads, model.num_kv_heads)
    hidden = dims.mlp_dim(width, model.mlp, model.mlp_dim) * (2 if model.mlp in dims.GATED else 1)
    widths = {"D": width, "H": heads * head / tensor, "G": groups * head / tensor}
    widths["F"] = hidden / tensor
    factors, again = KEPT[model.remat]
    layer = tokens * BFLOAT16 * sum(n * widths[key] for key, n in factors.items())
    logits = tokens * (model.vocab_size or 0) * FLOAT32 / tensor
    return layer * model.num_layers + logits, again
