"""The public tables of `extrapolation.py`, by family; they are not in the repository."""

from __future__ import annotations

import csv
import glob
import gzip
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from tables import ROOT

SHARED = pathlib.Path(os.environ.get("SCALING_SHARED", ROOT.parent / "shared")) / "scaling_data"
# One law and, where the toolkit has one for such tables, a combination.
SURFACE, CURVE = ("chinchilla", "combined"), ("m2",)
REPEATED, ROUTED = ("data_constrained", "combined_repeated"), ("routed", "combined_routed")
Array = np.ndarray
Columns = dict[str, Array]
Rows = list[dict[str, str]]
Set = tuple[str, str, tuple[str, ...], Columns]  # family, table, laws, columns
POINTS, MOST = 25, 250  # that are asked for, and that are fitted, of a split at most


def read(name: str) -> Rows:
    """Rows of a public table."""
    path = SHARED / name
    opener = gzip.open if name.endswith("gz") else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns(rows: Rows, **names: str) -> Columns:
    """Columns of numbers, renamed."""
    return {k: np.array([float(row[v]) for row in rows]) for k, v in names.items()}


def groups(rows: Rows, *keys: str) -> dict[tuple[str, ...], Rows]:
    """Rows by the values of `keys`, sorted."""
    split: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        split.setdefault(tuple(row[k] for k in keys), []).append(row)
    return dict(sorted(split.items()))


def surfaces() -> Iterator[Set]:
    """(family, table, laws, columns) of tables over parameters and tokens."""
    rows = read("chinchilla_epoch/svg_extracted_data.csv")
    data = columns(rows, params="Model Size", flops="Training FLOP", loss="loss")
    keep = data["loss"] < np.sort(data["loss"])[-5]
    tokens = data.pop("flops") / 6 / data["params"]
    yield (
        "chinchilla",
        "epoch",
        SURFACE,
        {k: v[keep] for k, v in (data | {"tokens": tokens}).items()},
    )
    rows = read("extrapolation/isoflops_llama3_scalefit.csv")
    kept = [row for row in rows if row["outlier"] == "False"]
    for (name,), some in groups(kept, "experiment").items():
        family = "chinchilla" if "scalefit" in name else "llama3"
        yield family, name, SURFACE, columns(some, params="params", tokens="tokens", loss="loss")
    for (name,), some in groups(read("porian/isoflop_points.csv"), "config").items():
        if name in ("rw, tuned", "owt2, tuned", "rw, warm-up corrected", "owt2, head counted"):
            yield "porian", name, SURFACE, columns(some, params="n", tokens="t", loss="loss")
    data = columns(
        read("datablations/points_fit182.csv"),
        **{k: k for k in ("params", "tokens", "unique_tokens", "loss")},
    )
    once = data["tokens"] <= 1.01 * data["unique_tokens"]
    unique = {k: data[k][once] for k in ("params", "tokens", "loss")}
    yield "datablations", "once", SURFACE, unique
    yield "datablations", "repeated", REPEATED, data
    yield from gadre()
    rows = read("extrapolation/steplaw_dense_lr_bs_loss.csv")
    best = [
        min(some, key=lambda row: float(row["smooth loss"]))
        for some in groups(rows, "N", "D").values()
    ]
    yield "steplaw", "best", SURFACE, columns(best, params="N", tokens="D", loss="smooth loss")


def gadre() -> Iterator[Set]:
    """Two validation sets of each of three training sets."""
    split: dict[str, list[tuple[float, ...]]] = {}
    for path in sorted(glob.glob(str(SHARED / "gadre_overtraining/models/*.json"))):
        model = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        size = model["hyperparameters"]["params"], model["hyperparameters"]["tokens"]
        for result in model["results"]:
            for key in ("openlm", "c4_val"):
                if key in str(result["val_data"]):
                    name = f"{model['dataset_name']} {key}"
                    split.setdefault(name, []).append((*size, result["loss"]))
    for name, points in sorted(split.items()):
        values = np.array(points, float).T
        yield "gadre", name, SURFACE, dict(zip(("params", "tokens", "loss"), values, strict=True))


def others() -> Iterator[Set]:
    """Tables over parameters alone, parameters and experts, or examples."""
    last: dict[str, dict[str, str]] = {}
    for row in read("clark_routed/curves.csv.gz"):
        known = last.get(row["hyper_id"])
        if known is None or float(row["step"]) > float(known["step"]):
            last[row["hyper_id"]] = row
    fixed = [
        r
        for r in last.values()
        if (r["routing_frequency"], r["k"], r["seed"]) == ("0.5", "1", "42")
    ]
    names = {"params": "dense_parameter_count", "loss": "loss_validation"}
    for router in ("Dense", "S-Base"):
        some = [row for row in fixed if row["router_type"] == router]
        if router == "Dense":
            yield "clark", "dense", ("henighan_n",), columns(some, **names)
        else:
            yield "clark", router, ROUTED, columns(some, **names, experts="num_experts")
    rows = read("bnsl/four_digit_addition.csv")
    yield "bnsl", "addition", CURVE, columns(rows, examples="train_size", loss="test_ce")
    rows = read("extrapolation/alabdulmohsin_lang.csv")
    for (domain, *names_), some in groups(rows, "Domain", "Task", "Model").items():
        data = columns(some, examples="Seen Examples", loss="Loss")
        if domain == "LM":  # several evaluations at one place: their mean
            seen, where = np.unique(data["examples"], return_inverse=True)
            mean = np.bincount(where, data["loss"]) / np.bincount(where)
            data = {"examples": seen, "loss": mean}
        yield f"curves {domain}", " ".join((domain, *names_)), CURVE, data


def scale(data: Columns) -> Array:
    """What a table is cut by: compute, or its only size."""
    if "tokens" in data:
        return 6 * data["params"] * data["tokens"]
    return data["examples"] if "examples" in data else data["params"]


def split(cut: int, data: Columns) -> tuple[Array, Array]:
    """(rows to fit, rows to ask for): below 1/cut of the largest run; of cut 1 a random fifth."""
    size, generator = scale(data), np.random.default_rng(0)
    inside = np.flatnonzero(size <= size.max() / cut * (1 + 1e-9))
    if cut == 1:
        inside = np.sort(generator.permutation(len(size))[: 4 * len(size) // 5])
    outside = np.setdiff1d(np.arange(len(size)), inside)
    if len(inside) > MOST:
        inside = np.sort(generator.permutation(inside)[:MOST])
    return inside, generator.permutation(outside)[:POINTS]
