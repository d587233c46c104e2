"""Tokens per second of a small Transformer's train step against PyTorch eager, on CPU.

    python scripts/bench/tokens_per_second.py [--sizes=small,medium] [--rounds=8] [--seconds=2]

Both sides train the same architecture on the same shapes: forward, backward, clipping to global
norm 1, AdamW, float32, all cores. On this side it is the step that `scaling.main` runs, guards and
metrics included; PyTorch runs eagerly, with `scaled_dot_product_attention` and its fused AdamW, the
fastest it offers without compiling. The two live in processes of their own and take turns of a few
seconds, so that a slow spell of the machine hits both; the figure is the median over rounds of the
ratio of their times, with its range. PyTorch is needed only here: `pip install torch`.

The machine must be idle: with other work on the cores PyTorch's threads wait for each other at every
operation, and the ratio says nothing about the two programs (seen: 10 and more).

Measured 2026-11-23 on 2 cores of an AMD EPYC, JAX 0.10.2, PyTorch 2.13.0, 8 rounds of 2 seconds: ratio
of PyTorch's step time to ours, median (range over rounds):

    small   gpt2    0.75 (0.57 to 0.79)    55.2 ms
    small   modern  0.90 (0.80 to 0.97)    59.5 ms
    medium  gpt2    0.78 (0.62 to 0.95)    952 ms
    medium  modern  0.95 (0.72 to 1.28)    961 ms

About half of our step is matrix products; about 7 % copies the optimizer's moments, which the guard
keeps in case the step is bad, and 7 % transposes keys and values for XLA's batched products.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Size:
    """Shape of a model and its batch."""

    layers: int
    heads: int
    width: int
    length: int
    batch: int
    vocab: int


SIZES = {
    "small": Size(layers=4, heads=4, width=128, length=64, batch=12, vocab=65),
    "medium": Size(layers=4, heads=4, width=256, length=256, batch=16, vocab=256),
}
# GPT-2's choices without biases (nanoGPT), and those of the small configs here.
STYLES = ("gpt2", "modern")


def jax_step(size: Size, style: str) -> Callable[[], Any]:
    """A function that takes one train step of this package and returns the loss of the one before."""
    import numpy as np
    from ml_collections import ConfigDict

    from scaling import configs, data, parallel
    from scaling.train.program import build_program, key_data

    gpt2 = style == "gpt2"
    model = {
        "name": "transformer",
        "vocab_size": size.vocab,
        "num_layers": size.layers,
        "model_dim": size.width,
        "num_heads": size.heads,
        "max_len": size.length,
        "norm": "layernorm" if gpt2 else "rmsnorm",
        "position": "learned" if gpt2 else "rope",
        "mlp": "gelu" if gpt2 else "relu2",
        "qk_norm": not gpt2,
        "tie_embeddings": True,
    }
    schedule = {"name": "constant", "warmup_steps": 0}
    config = configs.resolve(
        ConfigDict(
            {
                "name": "bench",
                "task": {"name": "language_model"},
                "model": model,
                "data": {
                    "source": {"name": "stdlib"},
                    "seq_len": size.length,
                    "mask_documents": False,  # PyTorch's kernel takes no segments either
                },
                "optim": {"name": "adamw", "learning_rate": 1e-3, "schedule": schedule},
                "train": {"steps": 1_000_000, "batch_size": size.batch},
            }
        )
    )
    mesh = parallel.make_mesh(config.mesh)
    program = build_program(config, data.describe(config), mesh)
    tokens = np.random.default_rng(0).integers(0, size.vocab, (size.batch, size.length + 1))
    rows = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones_like(tokens[:, 1:]),
    }
    spec = program.train_batch
    batch = parallel.put_batch(
        lambda start, stop: {k: rows[k][start:stop].astype(spec[k].dtype) for k in spec}, spec, mesh
    )
    state = program.init(key_data(0))
    step, hparams = program.lower_step().compile(), program.hparams()
    last = None

    def run() -> float | None:
        nonlocal state, last
        state, metrics = step(state, batch, hparams)
        before, last = last, metrics
        return None if before is None else float(before["loss"])

    return run


def torch_step(size: Size, style: str) -> Callable[[], Any]:
    """The same in PyTorch, eager."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    gpt2 = style == "gpt2"
    norm = (lambda d: nn.LayerNorm(d, bias=False)) if gpt2 else nn.RMSNorm
    width, heads = size.width, size.heads
    half = width // heads // 2
    angles = torch.arange(size.length)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()

    def rotate(x: Any) -> Any:
        left, right = x.chunk(2, dim=-1)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = norm(width), norm(width)
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.out = nn.Linear(width, width, bias=False)
            self.up = nn.Linear(width, 4 * width, bias=False)
            self.down = nn.Linear(4 * width, width, bias=False)
            if not gpt2:
                self.q_norm, self.k_norm = norm(width // heads), norm(width // heads)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).split(width, dim=-1)
            q, k, v = (y.view(batch, length, heads, -1).transpose(1, 2) for y in (q, k, v))
            if not gpt2:
                q, k = rotate(self.q_norm(q)), rotate(self.k_norm(k))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
            hidden = self.up(self.norm2(x))
            hidden = F.gelu(hidden, approximate="tanh") if gpt2 else F.relu(hidden).square()
            return x + self.down(hidden)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(size.vocab, width)
            nn.init.normal_(self.embedding.weight, std=width**-0.5)
            self.positions = nn.Parameter(torch.randn(size.length, width) * 0.02) if gpt2 else None
            self.blocks = nn.ModuleList(Block() for _ in range(size.layers))
            self.norm = norm(width)

        def forward(self, tokens: Any) -> Any:
            x = self.embedding(tokens)
            if self.positions is not None:
                x = x + self.positions
            for block in self.blocks:
                x = block(x)
            return self.norm(x) @ self.embedding.weight.T

    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    tokens = torch.randint(0, size.vocab, (size.batch, size.length + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)

    def run() -> float:
        loss = F.cross_entropy(model(inputs).view(-1, size.vocab), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


def worker(side: str, size: Size, style: str, seconds: float) -> None:
    """Times one turn for each line on stdin; prints seconds a step as JSON."""
    run = (jax_step if side == "jax" else torch_step)(size, style)
    for _ in range(5):
        run()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        run()  # wake threads and caches up again after the other's turn
        start, steps, loss = time.perf_counter(), 0, None
        while time.perf_counter() - start < seconds:
            loss, steps = run(), steps + 1
        print(json.dumps({"step": (time.perf_counter() - start) / steps, "loss": loss}), flush=True)


def compare(name: str, style: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians of both sides over interleaved rounds, and their ratio."""
    size = SIZES[name]
    children = {}
    for side in ("jax", "torch"):
        arguments = [f"--worker={side}", f"--sizes={name}", f"--styles={style}"]
        children[side] = subprocess.Popen(
            [sys.executable, __file__, *arguments, f"--seconds={seconds}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            encoding="utf-8",
        )
        _answer(children[side])
    times: dict[str, list[float]] = {"jax": [], "torch": []}
    for _ in range(rounds):
        for side, child in children.items():
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            times[side].append(_answer(child)["step"])
    for child in children.values():
        child.communicate()
    tokens = size.batch * size.length
    ratios = [b / a for a, b in zip(times["jax"], times["torch"], strict=True)]
    return {
        "size": name,
        "style": style,
        "jax_tokens_per_second": round(tokens / statistics.median(times["jax"])),
        "torch_tokens_per_second": round(tokens / statistics.median(times["torch"])),
        "jax_step_ms": round(1e3 * statistics.median(times["jax"]), 2),
        "torch_step_ms": round(1e3 * statistics.median(times["torch"]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def _answer(child: Any) -> dict[str, Any]:
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{child.args} ended without an answer: see its error above")
    return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--styles", default=",".join(STYLES))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--worker", choices=("jax", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, SIZES[options.sizes], options.styles, options.seconds)
        return
    for name in options.sizes.split(","):
        for style in options.styles.split(","):
            print(json.dumps(compare(name, style, options.rounds, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
