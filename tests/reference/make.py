"""The first losses that the small configs should give, kept under test: a changed number shows.

    python tests/reference/make.py                 # makes every curve again, after a meant change
    python tests/reference/make.py mnist-cnn       # or some of them

A curve is the config as shipped, schedule of the whole run included, but only its first steps: the
training loss of each, and the loss on a few held-out batches behind them.
"""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from helpers import ROOT, shared  # noqa: E402
from run_helpers import corpus  # noqa: E402

from scaling import configs, data, parallel  # noqa: E402
from scaling.train.compiled import Sharded, Turn, run_evaluation  # noqa: E402
from scaling.train.evaluate import compile_evaluations, schedule  # noqa: E402
from scaling.train.program import build_program  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a curve is made of.

    Attributes:
      spec: the config file with its argument, below the repository.
      data: what stands in for the data: "" for a text that is made here, the same everywhere, or
        a path below the shared data folder.
      steps: training steps.
      rtol: how far a loss may be from the stored one, relative; see `test_reference`.
    """

    spec: str
    data: str
    steps: int
    rtol: float


REFERENCES = {
    "quickstart": Reference("experiments/quickstart.py", "", 30, 1e-4),
    "shakespeare": Reference(
        "experiments/shakespeare.py", "data/tinyshakespeare/input.txt", 40, 1e-4
    ),
    "mnist-cnn": Reference("experiments/mnist.py:cnn", "tensorflow_datasets", 30, 2e-3),
    "mnist-mlp": Reference("experiments/mnist.py:mlp", "tensorflow_datasets", 40, 1e-4),
}
EVAL_BATCHES = 4


def path_of(name: str) -> pathlib.Path:
    """Where a curve is kept."""
    return HERE / f"{name}.json"


def config_of(name: str, folder: pathlib.Path) -> Any:
    """The resolved config of a reference; prepared data goes into `folder`."""
    reference = REFERENCES[name]
    source = [f"--config.data.cache_dir={folder}"]
    if reference.data == "tensorflow_datasets":
        # Some of the images will do, and need not be decoded for half a minute.
        source += [
            f"--config.data.source.data_dir={shared(reference.data)}",
            "--config.data.source.split=train[:5000]",
            "--config.data.source.eval_split=test[:2000]",
        ]
    else:
        text = shared(reference.data) if reference.data else corpus(folder)
        source += ["--config.data.source=files", f"--config.data.source.paths={text}"]
    return configs.load_resolved(str(ROOT / reference.spec), source)


def measure(config: Any, steps: int) -> dict[str, Any]:
    """Trains the first steps on one device.

    Returns:
      {"train": the loss of each step, "eval": the loss on the first held-out batches}.
    """
    built = data.build(config)
    program = build_program(config, built.info, parallel.make_mesh(config.mesh, jax.devices()[:1]))
    state, hparams, losses = program.fresh_state(), program.hparams(), []
    for step in range(steps):
        batch = parallel.put_batch(
            lambda start, stop, step=step: built.train.batch(step, start, stop),
            program.train_batch,
            program.mesh,
        )
        state, metrics = program.step(state, batch, hparams)
        losses.append(metrics["loss"])
    jobs = schedule(config, program.task, built.evals)
    (job,) = [job for job in jobs if job.name == "eval"]
    job = dataclasses.replace(job, batches=EVAL_BATCHES)
    compiled, _ = compile_evaluations(program, [job])
    sharded, turn = Sharded(program, [job], compiled), Turn.alone(config.seed, steps)
    score = run_evaluation(sharded, job, state.evaluated(), turn, False, built.artefacts)[0]
    return {"train": [float(x) for x in jax.device_get(losses)], "eval": float(score["loss"])}


def main(names: list[str], folder: pathlib.Path) -> int:
    """Measures curves and writes them."""
    unknown = sorted(set(names) - set(REFERENCES))
    if unknown:
        print(f"no such curve: {', '.join(unknown)}; there are {', '.join(REFERENCES)}")
        return 2
    for name in names or REFERENCES:
        reference = REFERENCES[name]
        found = measure(config_of(name, folder), reference.steps)
        record = dataclasses.asdict(reference) | {
            "made_with": {"jax": jax.__version__, "numpy": np.__version__, "platform": "cpu"},
            "eval": round(found["eval"], 6),
            "train": [round(loss, 6) for loss in found["train"]],
        }
        path_of(name).write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: train {found['train'][-1]:.4f}, eval {found['eval']:.4f}")
    return 0


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        sys.exit(main(sys.argv[1:], pathlib.Path(made)))
