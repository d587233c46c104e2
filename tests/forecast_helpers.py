"""Tables with a known law, tiny configs, and run directories that were never run."""

import csv
import json
import pathlib

import numpy as np
from helpers import resolved
from ml_collections import ConfigDict

from scaling import configs
from scaling.track import files, sealed

TRUTH = {"E": 1.2, "A": 40.0, "B": 90.0, "alpha": 0.4, "beta": 0.35}
NOISE = 0.004


def true_loss(params, tokens):
    t = TRUTH
    return t["E"] + t["A"] / params ** t["alpha"] + t["B"] / tokens ** t["beta"]


def write_table(path: pathlib.Path, seed: int = 0, noise: float = NOISE) -> pathlib.Path:
    """20 runs of a known law with noise in the logarithm, as CSV."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("params", "tokens", "loss"))
        for params in (1e3, 2e3, 4e3, 8e3, 1.6e4):
            for tokens in (2e4, 4e4, 8e4, 1.6e5):
                loss = true_loss(params, tokens) * np.exp(noise * rng.standard_normal())
                out.writerow((params, tokens, loss))
    return path


def tiny_zipf(**overrides: object) -> ConfigDict:
    """About 20,000 parameters on made-up facts; 1,008 tokens a step."""
    config = ConfigDict(
        {
            "name": "tiny_zipf",
            "task": {"name": "language_model"},
            "data": {
                "source": {
                    "name": "synthetic_zipf",
                    "base": 16,
                    "digits": 2,
                    "attributes": 2,
                    "eval_examples": 64,
                },
                "seq_len": 63,
            },
            "model": {
                "name": "transformer",
                "num_layers": 1,
                "model_dim": 32,
                "num_heads": 2,
                "tie_embeddings": True,
            },
            "optim": {
                "name": "adamw",
                "learning_rate": 0.02,
                "schedule": {"name": "inverse_sqrt", "warmup_steps": 10},
            },
            "train": {"steps": 1000, "batch_size": 16},
            "track": {"progress": "off"},
        }
    )
    return resolved(config, overrides)


def config_file(folder: pathlib.Path, config: ConfigDict) -> str:
    """A config as a file for a command line."""
    path = folder / "config.json"
    path.write_text(configs.to_json(config))
    return str(path)


def fake_forecast(**changes: object) -> dict:
    """A small forecast of run `abc`: loss 2 +- 0.1 (50 %), +- 0.4 (95 %), steps of 0.1 s."""

    def quantity(value: float, unit: str) -> dict:
        inner, outer = [0.95 * value, 1.05 * value], [0.8 * value, 1.2 * value]
        levels = {"0.5": inner, "0.95": outer}
        both = {"interval50": inner, "interval95": outer, "levels": levels}
        return {"value": value, "unit": unit, "source": "made up", **both}

    return {
        "created": "2026-01-01T00:00:00+00:00",
        "name": "fake",
        "fingerprint": "abc",
        "unit": "tokens",
        "steps": 10,
        "outside": {"params": 2.0},
        "law": {"name": "chinchilla", "table_sha256": "t"},
        "machine": {
            "device": {"kind": "cpu", "count": 1},
            "chips": 1,
            "price": 2.0,
            "currency": "USD",
        },
        "quantities": {
            "loss": quantity(2.0, "nats per token"),
            "step_time": quantity(0.1, "seconds"),
            "chip_hours": quantity(1.0 / 3600, "chip-hours"),
            "cost": quantity(2.0 / 3600, "USD"),
        },
        **changes,
    }


def fake_run(
    folder: pathlib.Path, forecast: dict | None, loss: float = 2.05, **summary: object
) -> dict:
    """A run directory as a run leaves it, with the forecast that it began with; the summary."""
    folder.mkdir(parents=True)
    seal = None if forecast is None else sealed.write(folder / sealed.FORECAST, forecast)["sha256"]
    start = {"devices": {"platform": "cpu", "kinds": {"cpu": 1}, "cores": 2}}
    files.write_json(folder / "provenance.json", {"forecast": seal, "attempts": [start]})
    lines = [{"step": s, "train/loss": 3.0, "perf/step_seconds": 0.11} for s in range(1, 11)]
    lines[0]["perf/step_seconds"] = 9.0  # the first step warms up and does not count
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seconds = {"train": 1.0, "data_wait": 0.1, "eval": 5.0}
    found = {"status": "completed", "step": 10, "eval": {"loss": loss}, "seconds": seconds}
    found |= summary
    files.write_json(folder / "summary.json", found)
    return found
