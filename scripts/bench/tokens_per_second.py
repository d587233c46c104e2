"""Time of a Transformer's train step or evaluation against PyTorch's, on CPU or one NVIDIA GPU.

    python scripts/bench/tokens_per_second.py [--sizes=small,medium] [--rounds=8] [--seconds=2]
    python scripts/bench/tokens_per_second.py --what=evaluation
    python scripts/bench/tokens_per_second.py --platform=gpu --sizes=124m [--styles=gpt2]

All sides train the same architecture on the same shapes: forward, backward, clipping to global
norm 1, AdamW, float32, all cores. On this side it is the step that `scaling.main` runs, guards,
metrics and allocator settings included. PyTorch has `scaled_dot_product_attention` and its fused
AdamW; it runs eagerly and compiled, each as it comes and under the same allocator settings. An
evaluation is the loss of a held-out batch, from rows on the host to a number on the host, as a run
does it, and in PyTorch under `torch.no_grad`.

Each side lives in a process of its own and they take turns of a few seconds, so that a slow spell of
the machine hits all; the figure is the median over rounds of the ratio of a side's time to ours,
with its range. PyTorch is needed only here: `pip install torch`. On a GPU both sides compute in
bfloat16 over float32 parameters (PyTorch by autocast), and all processes share the card's memory.

The machine must be idle: with other work on the cores PyTorch's threads wait for each other at every
operation, and the ratio says nothing about the two programs (seen: 10 and more). On one core
(`taskset -c 0`) no thread waits for another, and the ratio of processor time holds beside other work.

docs/results.md has what was measured, and when, and what our step's time consists of.
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

from scaling.track import allocator


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
    "tiny": Size(layers=1, heads=2, width=16, length=16, batch=2, vocab=257),  # for a test
    "small": Size(layers=4, heads=4, width=128, length=64, batch=12, vocab=257),
    "medium": Size(layers=4, heads=4, width=256, length=256, batch=16, vocab=257),
    # GPT-2's smallest, its vocabulary padded to a multiple of 128 as in nanoGPT; for a GPU.
    "124m": Size(layers=12, heads=12, width=768, length=1024, batch=16, vocab=50304),
}
# GPT-2's choices without biases (nanoGPT), and those of the small configs here.
STYLES = ("gpt2", "modern")


def jax_program(size: Size, style: str, platform: str) -> tuple[Any, dict[str, Any]]:
    """This package's program of the model, and the rows of a batch."""
    import numpy as np
    from ml_collections import ConfigDict

    from scaling import configs, data, parallel
    from scaling.train.program import build_program

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
                "platform": platform,
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
    program = build_program(config, data.describe(config), parallel.make_mesh(config.mesh))
    tokens = np.random.default_rng(0).integers(0, size.vocab, (size.batch, size.length + 1))
    rows = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones_like(tokens[:, 1:]),
    }
    return program, {k: rows[k].astype(x.dtype) for k, x in program.train_batch.items()}


def jax_step(size: Size, style: str, platform: str) -> Callable[[], Any]:
    """A function that takes one train step of this package and returns the loss of the one before."""
    from scaling import parallel
    from scaling.train.program import key_data

    allocator.run_inline()
    program, rows = jax_program(size, style, platform)
    batch = parallel.put_batch(
        lambda start, stop: {k: x[start:stop].copy() for k, x in rows.items()},
        program.train_batch,
        program.mesh,
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


def jax_evaluation(size: Size, style: str, platform: str) -> Callable[[], Any]:
    """A function that evaluates one batch and returns the loss of the one before."""
    import jax
    import numpy as np

    from scaling.data.loader import EvalSet
    from scaling.train.compiled import Sharded, Turn
    from scaling.train.evaluate import Scheduled, compile_evaluations
    from scaling.train.program import key_data
    from scaling.train.state import as_variables

    allocator.run_inline()
    program, rows = jax_program(size, style, platform)

    class Rows:
        spec = {k: (x.shape[1:], x.dtype) for k, x in rows.items()}

        def __len__(self) -> int:
            return size.batch

        def gather(self, indices: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
            return {k: x[indices] for k, x in rows.items()}

    score = program.task.evaluations["score"]
    job = Scheduled("eval", score, EvalSet(Rows()), 0, None, None, size.batch)
    ours = Sharded(program, [job], compile_evaluations(program, [job])[0])
    state = program.init(key_data(0))
    variables = as_variables(state.params, state.frozen, state.model_state)
    turn, last = Turn.alone(0, 0), None

    def run() -> float | None:
        nonlocal last
        result, _ = ours.evaluate(job, 0, variables, turn, None)
        before, last = last, result
        return None if before is None else score.report(jax.device_get(before), {})["loss"]

    return run


def torch_run(
    size: Size, style: str, platform: str, compiled: bool, train: bool
) -> Callable[[], Any]:
    """The same in PyTorch, eager or through `torch.compile`."""
    import torch
    from torch.nn import functional
    from torch_peer import Transformer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if platform == "gpu" else "highest")
    shape = (size.layers, size.heads, size.width, size.length, size.vocab)
    device = torch.device("cuda" if platform == "gpu" else "cpu")
    host = torch.randint(0, size.vocab, (size.batch, size.length + 1))
    with device:
        model: Any = Transformer(*shape, gpt2=style == "gpt2")
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)

    def loss_of(tokens: torch.Tensor) -> torch.Tensor:
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)
        with torch.autocast(device.type, torch.bfloat16, enabled=platform == "gpu"):
            logits = model(inputs).view(-1, size.vocab)
            return functional.cross_entropy(logits, targets)

    batch = host.to(device)

    def step() -> float:
        loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    def evaluate() -> float:
        with torch.no_grad():
            return loss_of(host.to(device)).item()

    return step if train else evaluate


def worker(run: Callable[[], Any], seconds: float) -> None:
    """Times one turn for each line on stdin; prints seconds a step, and of the processor, as JSON."""
    for _ in range(5):
        run()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        # A host may take the pages of a process that waits: the first step of a turn was seen to take
        # twice as long, and the second a quarter longer. A run in training does not wait.
        wake = time.perf_counter()
        for _ in range(3):
            run()
        while time.perf_counter() - wake < seconds / 2:
            run()
        start, used, steps, loss = time.perf_counter(), time.process_time(), 0, None
        while time.perf_counter() - start < seconds:
            loss, steps = run(), steps + 1
        step = (time.perf_counter() - start) / steps
        used = (time.process_time() - used) / steps
        print(json.dumps({"step": step, "processor": used, "loss": loss}), flush=True)


# Who takes part: (worker, PyTorch compiled, under the allocator's settings that our runs have).
SIDES = {
    "jax": ("jax", False, True),
    "torch": ("torch", False, False),
    "torch_same_allocator": ("torch", False, True),
    "torch_compiled": ("torch", True, True),
    "torch_compiled_own_allocator": ("torch", True, False),
}


def compare(
    name: str, style: str, platform: str, what: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """Medians of all sides over interleaved rounds, and the ratios of their times to ours."""
    size, children = SIZES[name], {}
    sides = {k: v for k, v in SIDES.items() if platform == "cpu" or not k.endswith("_allocator")}
    # JAX takes most of a card at its start, and PyTorch wants room beside it.
    backend = {"JAX_PLATFORMS": "cpu"}
    if platform == "gpu":
        backend = {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4"}
    for side, (worker, compiled, tuned) in sides.items():
        command = [sys.executable, __file__, f"--worker={worker}", f"--seconds={seconds}"]
        command += [f"--platform={platform}", f"--what={what}"]
        command += [f"--sizes={name}", f"--styles={style}", *["--compiled"] * compiled]
        # An empty setting is glibc's default: these times shall not depend on the caller's.
        tunables = {"GLIBC_TUNABLES": allocator.TUNABLES if tuned else ""}
        children[side] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | backend | tunables,
        )
        _answer(children[side])
    answers: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, child in children.items():
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            answers[side].append(_answer(child))
    for child in children.values():
        child.communicate()
    tokens = size.batch * size.length
    report: dict[str, Any] = {"what": what, "size": name, "style": style, "tokens": tokens}
    for side in sides:
        report[side] = {}
        for what in ("step", "processor"):
            each, ours = ([answer[what] for answer in answers[k]] for k in (side, "jax"))
            ratios = [theirs / our for our, theirs in zip(ours, each, strict=True)]
            report[side] |= {
                f"{what}_ms": round(1e3 * statistics.median(each), 2),
                f"{what}_ratio": round(statistics.median(ratios), 3),
                f"{what}_range": [round(min(ratios), 3), round(max(ratios), 3)],
            }
    return report


def _answer(child: Any) -> dict[str, Any]:
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{child.args} ended without an answer: see its error above")
    return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="small,medium")
    parser.add_argument("--styles", default=",".join(STYLES))
    parser.add_argument("--platform", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--what", default="step", choices=("step", "evaluation"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--worker", choices=("jax", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        size, style = SIZES[options.sizes], options.styles
        where, train = (size, style, options.platform), options.what == "step"
        if options.worker == "torch":
            run = torch_run(*where, options.compiled, train)
        else:
            run = jax_step(*where) if train else jax_evaluation(*where)
        worker(run, options.seconds)
        return
    for name in options.sizes.split(","):
        for style in options.styles.split(","):
            where = (name, style, options.platform, options.what)
            report = compare(*where, options.rounds, options.seconds)
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
