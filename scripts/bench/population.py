"""A learning-rate x seed sweep of a small Transformer: as one population, and one run after another.

    python scripts/bench/population.py [--steps=100] [--devices=1,2] [--mode=auto] [--seeds=4]

Both sides do the same work: the same members with the same batches, evaluations and checkpoints, each
leaving its own run directory. One side is `python -m scaling.main` for one member after another, the
other one process that trains all of them; start, data and compile are counted, and each side begins
with empty caches, of which the runs after the first profit. The whole is repeated for each number of
devices (of the population; on CPU they are made by splitting the host). Printed: seconds of either
side, their ratio, and the largest relative difference between a member and its solo run, over the
training losses and over the evaluations.

The machine must be idle; on one that is not, the ratio of processor time is the better figure.

docs/results.md has what was measured on one device. On two, beside other work (2026-11-22, 100 steps), a
population took 193.7 s instead of 473.0, and 54.8 s of processor time instead of 105.9.

On one device every member's losses equal its solo run's to the last bit. On two, XLA compiles another
program for the same sums: members begin within 1e-6 of their solo runs and part from them as a run
does after any change of the last place (here 0.06 in a training loss, at rates up to 0.03).
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RATES = (0.001, 0.003, 0.01, 0.03)

CONFIG = """\
import ml_collections

def get_config(arg=""):
    c = ml_collections.ConfigDict()
    c.task = {"name": "language_model"}
    c.data = {"source": {"name": "synthetic_zipf", "base": 16, "digits": 3, "eval_examples": 256},
              "seq_len": 64}
    c.model = {"name": "transformer", "num_layers": 2, "model_dim": WIDTH, "num_heads": 4}
    c.optim = {"name": "adamw", "schedule": {"name": "cosine", "warmup_steps": 10}}
    c.train = {"steps": 100, "batch_size": 16}
    c.eval = {"every": 50, "batches": 4}
    c.checkpoint = {"every": 0}
    c.track = {"every": 10, "progress": "off", "tensorboard": False}
    return c
"""

TOGETHER = """\
import json, pathlib, sys
from scaling import configs
from scaling.train.population import run_population
spec, folder, mode, members = sys.argv[1:]
folder, members = pathlib.Path(folder), json.loads(members)
loaded = [configs.load_resolved(spec, one) for one in members.values()]
statuses = run_population(loaded, [folder / name for name in members], mode=mode)
sys.exit(statuses != ["completed"] * len(members))
"""


def environment(folder: pathlib.Path, devices: int) -> dict[str, str]:
    """Caches of their own, and the host split into devices where it is a CPU."""
    found = dict(os.environ)
    for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS"):
        found.pop(name, None)
    found["SCALING_CACHE"] = str(folder / "cache")
    found["PYTHONPATH"] = str(ROOT)
    found["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return found


def call(arguments: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise SystemExit(f"{arguments}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


class Stopwatch:
    """Wall and processor seconds of the child processes since it began."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), self._children()

    @staticmethod
    def _children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, self._children() - self.processor


def one_by_one(
    spec: str, folder: pathlib.Path, members: dict[str, list[str]]
) -> tuple[float, float]:
    env, watch = environment(folder, 1), Stopwatch()
    for name, overrides in members.items():
        flags = [f"--config.{one}" for one in overrides]
        call(["-m", "scaling.main", f"--config={spec}", f"--workdir={folder / name}", *flags], env)
    return watch.read()


def together(
    spec: str, folder: pathlib.Path, members: dict[str, list[str]], devices: int, mode: str
) -> tuple[float, float]:
    env, watch = environment(folder, devices), Stopwatch()
    call(["-c", TOGETHER, spec, str(folder), mode, json.dumps(members)], env)
    return watch.read()


def read(run: pathlib.Path, key: str) -> list[float]:
    lines = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [line[key] for line in lines if key in line]


def difference(
    left: pathlib.Path, right: pathlib.Path, members: dict[str, list[str]], key: str
) -> float:
    worst = 0.0
    for name in members:
        pairs = zip(read(left / name, key), read(right / name, key), strict=True)
        worst = max(worst, *(abs(a - b) / abs(b) for a, b in pairs))
    return worst


def spent(folder: pathlib.Path, members: dict[str, list[str]], bucket: str) -> list[float]:
    return [
        json.loads((folder / m / "summary.json").read_text(encoding="utf-8"))["seconds"][bucket]
        for m in members
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--devices", default="1,2")
    parser.add_argument("--mode", default="auto")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="population-"))
    (folder / "small.py").write_text(CONFIG.replace("WIDTH", str(options.width)), encoding="utf-8")
    spec = str(folder / "small.py")
    members = {
        f"rate{rate}-seed{seed}": [
            f"optim.learning_rate={rate}", f"seed={seed}", f"train.steps={options.steps}",
        ]
        for rate in RATES
        for seed in range(options.seeds)
    }  # fmt: skip
    alone, processor = one_by_one(spec, folder / "alone", members)
    first = folder / "alone" / next(iter(members)) / "summary.json"
    params = json.loads(first.read_text(encoding="utf-8"))["params"]["total"]
    train = sum(spent(folder / "alone", members, "train"))
    print(f"{len(members)} members of {params:,} parameters, {options.steps} steps each")
    print(
        f"one after another: {alone:.1f} s, of which training {train:.1f} s; processor "
        f"{processor:.1f} s"
    )
    for devices in map(int, options.devices.split(",")):
        where = folder / f"together{devices}"
        seconds, used = together(spec, where, members, devices, options.mode)
        train = max(spent(where, members, "train"))
        gaps = [
            difference(where, folder / "alone", list(members), key)
            for key in ("train/loss", "eval/loss")
        ]
        print(
            f"population on {devices} device(s): {seconds:.1f} s, of which training {train:.1f} s; "
            f"processor {used:.1f} s; ratio {alone / seconds:.2f}, of processor time "
            f"{processor / used:.2f}; members differ from solo runs by {gaps[0]:.1g} (training "
            f"loss), {gaps[1]:.1g} (evaluation)"
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
