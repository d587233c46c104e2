"""What the choices behind a fit are worth on public tables: law, loss, resamples, isoFLOP budgets.

    python experiments/papers/choices.py

Writes docs/reference/choices.md. What the toolkit did before (`BEFORE`, a commit of this repository)
runs again from the history, in a process of its own. The tables are those of `extrapolation.py`.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import alabdulmohsin
import numpy as np
from extrapolation_tables import Array, Columns, columns, groups, read, split, surfaces
from tables import ROOT

from scaling.laws import LawError, Loss, bootstrap, fit, get_law
from scaling.laws.comparison import score
from scaling.laws.fitting import Result
from scaling.laws.isoflop import approach2, group_budgets

BEFORE = "9a5fb48"
# What the tables say, as of 2026-11-26.
LAW_SAYS = """\
The pick of rolling origin errs less than that of folds, except on the curves of language models (LM).
On tables no pick comes near the combination, which is what forecasts take."""
LOSS_SAYS = """\
Beyond the data, where a law's form errs, a delta from the residuals is nearer on the BIG-Bench curves
(BB) alone; nor did signs of form in the residuals (the von Neumann ratio along compute) tell where.
Combinations, which are for forecasts, keep 1e-3. Where the form holds and only noise is in the way, the
residuals' delta is nearer, and that is what a fit of one law is for:"""
NOISES = (0.003, 0.01, 0.03)
RESAMPLES_SAY = """\
The repeated runs of datablations do not identify R_D and R_N (see the reproduction). Their resamples
converge all the same: the derivatives of the law are exact as R goes to infinity."""
MINIMA_SAY = (
    "Tables without isoFLOP budgets (gadre, steplaw) had an exponent before and have none now."
)
CURVE_LAWS = ("m1", "m2", "m3", "m4")
SURFACE_LAWS = ("chinchilla", "kaplan_nd", "over_training", "farseer")
LOSSES = ("1e-3", "residuals", "squares")
RESAMPLES = 200
Case = tuple[str, Columns, Columns]  # group, rows to fit, rows to ask for


def cases() -> Iterator[Case]:
    """The curves as their benchmark splits them; tables below 1/10 and 1/3 of the largest compute."""
    for (domain, *_), rows in alabdulmohsin.curves().items():
        first = rows[:, 2] == 1
        yield (
            f"curves {domain}",
            *({"examples": rows[keep, 0], "loss": rows[keep, 1]} for keep in (first, ~first)),
        )
    for cut, (_, _, _, data) in itertools.product((10, 3), surfaces()):
        inside, outside = split(cut, data)
        if set(data) == {"params", "tokens", "loss"} and len(inside) >= 12:
            yield "tables", *({k: v[rows] for k, v in data.items()} for rows in (inside, outside))


def error(result: Result, asked: Columns) -> float:
    """Root mean square of ln prediction - ln loss."""
    said = result.predict(**{k: v for k, v in asked.items() if k != "loss"})
    return float(np.sqrt(np.mean((np.log(said) - np.log(asked["loss"])) ** 2)))


def fits(rows: Columns, law: str) -> dict[str, Result]:
    """One law under each of `LOSSES`."""
    space = get_law(law).space
    return {
        "1e-3": fit(rows, law, Loss(space=space)),
        "residuals": fit(rows, law, Loss(space=space), adapt=True),
        "squares": fit(rows, law, Loss("lsq", space=space)),
    }


def forecasts() -> dict[str, list[dict[str, Any]]]:
    """By group, one record a case: errors by law and loss, what each way of ranking picks."""
    records: dict[str, list[dict[str, Any]]] = {}
    for group, rows, asked in cases():
        errors, scores = dict[str, dict[str, float]](), {}
        for law in SURFACE_LAWS if group == "tables" else CURVE_LAWS:
            if len(rows["loss"]) < len(get_law(law).parameters) + 2:
                continue
            each = fits(rows, law)
            errors[law] = {loss: error(result, asked) for loss, result in each.items()}
            scores[law] = score(each["residuals"])
        record: dict[str, Any] = {"errors": errors}
        record["folds"] = min(scores, key=lambda law: scores[law].held_out)
        rolling = {k: s.rolling if s.rolling is not None else s.held_out for k, s in scores.items()}
        record["rolling"] = min(rolling, key=lambda law: rolling[law])
        record["best"] = min(errors, key=lambda law: errors[law]["residuals"])
        if group == "tables":
            record["combined"] = error(fit(rows, "combined"), asked)
        records.setdefault(group, []).append(record)
        print(group, {k: record[k] for k in ("folds", "rolling", "best")}, flush=True)
    return records


def geometric(values: Sequence[float]) -> float:
    """The geometric mean, in %."""
    return 100 * float(np.exp(np.mean(np.log(values))))


def which_law(records: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Ranking by random folds beside ranking by rolling origin."""
    lines = [
        "## Which law",
        "",
        "Laws ranked by ten random folds (before) and by rolling origin (after):",
        f"{', '.join(CURVE_LAWS)} on curves, {', '.join(SURFACE_LAWS)} on tables.",
        "",
        "| | cases | folds pick the best | rolling picks it | error: folds' pick | rolling's pick "
        "| `combined` | best in hindsight |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, some in records.items():
        picked = {
            way: geometric([r["errors"][r[way]]["residuals"] for r in some])
            for way in ("folds", "rolling", "best")
        }
        hits = [sum(r[way] == r["best"] for r in some) for way in ("folds", "rolling")]
        median = f"{geometric([r['combined'] for r in some]):.2f} %" if group == "tables" else ""
        lines.append(
            f"| {group} | {len(some)} | {hits[0]} | {hits[1]} | {picked['folds']:.2f} % "
            f"| {picked['rolling']:.2f} % | {median} | {picked['best']:.2f} % |"
        )
    return [*lines, "", LAW_SAYS]


def which_loss(records: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Huber's delta of the papers, from the residuals, and least squares."""
    lines = [
        "",
        "## Which loss",
        "",
        "The same cases, all those laws: Huber's delta 1e-3 (before), from the residuals (what",
        "`scaling.fit` does now for one law), and least squares.",
        "",
        "| | fits | delta 1e-3 | from the residuals | least squares |",
        "|---|---|---|---|---|",
    ]
    for group, some in records.items():
        each = [by for record in some for by in record["errors"].values()]
        means = " | ".join(f"{geometric([by[loss] for by in each]):.2f} %" for loss in LOSSES)
        lines.append(f"| {group} | {len(each)} | {means} |")
    return [*lines, "", LOSS_SAYS]


def planted() -> list[str]:
    """Errors of exponents where the law is known and noise is Gaussian: 48 runs, 40 draws."""
    t = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
    flops = np.repeat(np.geomspace(1e18, 1e21, 6), 8)
    params = 0.1 * np.sqrt(flops / 6) * np.tile(np.geomspace(0.2, 5, 8), 6)
    tokens = flops / (6 * params)
    clean = t["E"] + t["A"] * params ** -t["alpha"] + t["B"] * tokens ** -t["beta"]
    lines = [
        "",
        "| planted chinchilla, noise | alpha: 1e-3 | from the residuals | beta: 1e-3 | from",
    ]
    lines = [lines[0], f"{lines[1]} the residuals |", "|---|---|---|---|---|"]
    for noise in NOISES:
        off = np.empty((2, 40, 2))
        for seed in range(40):
            loss = clean * np.exp(noise * np.random.default_rng(seed).standard_normal(len(clean)))
            rows = {"params": params, "tokens": tokens, "loss": loss}
            for i, adapt in enumerate((False, True)):
                found = fit(rows, "chinchilla", adapt=adapt).parameters
                off[i, seed] = [np.log(found[name] / t[name]) for name in ("alpha", "beta")]
        cells = " | ".join(f"{100 * x:.1f} %" for x in np.sqrt(np.mean(off**2, axis=1)).T.ravel())
        lines.append(f"| {100 * noise:g} % | {cells} |")
    return lines


def isoflop_tables() -> Iterator[tuple[str, Columns]]:
    """The public tables with isoFLOP budgets, and some that have none."""
    for (name,), some in groups(read("porian/isoflop_points.csv"), "config").items():
        yield f"porian: {name}", columns(some, params="n", tokens="t", loss="loss")
    for family, name, _, data in surfaces():
        if family != "porian" and set(data) == {"params", "tokens", "loss"}:
            yield f"{family}: {name}", data


def measured() -> dict[str, dict[str, Any]]:
    """Approach 2 on tables and resamples that did not converge, by the toolkit that is imported."""
    minima: dict[str, Any] = {}
    dropped: dict[str, Any] = {}
    for name, data in isoflop_tables():
        flops: Array = 6 * data["params"] * data["tokens"]
        try:
            line = approach2(data["params"], data["loss"], flops, resamples=RESAMPLES)
            minima[name] = (int(group_budgets(flops).max()) + 1, line.exponent, *line.interval)
        except LawError:
            minima[name] = None
    for family, name, laws, data in surfaces():
        try:
            draws = bootstrap(fit(data, laws[0]), RESAMPLES)
            dropped[f"{family}: {name}"] = (1 - draws.converged, len(draws))
        except LawError as failure:
            dropped[f"{family}: {name}"] = str(failure)
    return {"minima": minima, "dropped": dropped}


def before() -> dict[str, dict[str, Any]]:
    """`measured` by the toolkit as it was."""
    archive = subprocess.run(
        ["git", "archive", BEFORE, "scaling"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        here = pathlib.Path(__file__).resolve()
        done = subprocess.run(
            [sys.executable, str(here), "--measure"],
            env=os.environ | {"PYTHONPATH": folder},
            check=True,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def published() -> dict[str, float]:
    """Exponents of Porian et al., by table."""
    return {
        f"porian: {row['config']}": float(row["n_exp_printed"])
        for row in read("porian/stored_fits.csv")
    }


def which_minima(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Exponents of approach 2, before and after; bold where outside their own interval."""
    lines = [
        "",
        "## Approach 2",
        "",
        "Exponent of N* ~ C^a through isoFLOP minima, 95 % interval, number of budgets; bold: outside",
        "its own interval. Before, a minimum far outside the sampled sizes counted in the estimate but",
        "not in its interval, and budgets were windows of 0.35 in ln C whatever the gaps between them.",
        "",
        "| table | published | before | after |",
        "|---|---|---|---|",
    ]

    def cell(line: Any) -> str:
        if line is None:
            return "none"
        budgets, exponent, low, high = line
        text = f"{exponent:.3f}"
        if not low <= exponent <= high:
            text = f"**{text}**"
        return f"{text} [{low:.3f}, {high:.3f}], {budgets}"

    known = published()
    off = {"before": list[float](), "after": list[float]()}
    for name, after in now.items():
        first = f"{known[name]:.3f}" if name in known else ""
        lines.append(f"| {name} | {first} | {cell(was[name])} | {cell(after)} |")
        if name in known:
            off["before"].append(abs(was[name][1] - known[name]))
            off["after"].append(abs(after[1] - known[name]))
    means = {key: float(np.mean(values)) for key, values in off.items()}
    text = f"Mean distance from the published exponents: {means['before']:.3f} before, "
    return [*lines, "", f"{text}{means['after']:.3f} after. {MINIMA_SAY}"]


def which_resamples(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Resamples that did not converge, before and after."""
    lines = [
        "",
        "## Resamples that do not converge",
        "",
        f"Of {RESAMPLES} resamples of each table. Before they were used all the same; now they are",
        "refitted for longer, and what is left is dropped and counted.",
        "",
        "| table | before: unconverged, used | after: unconverged, dropped |",
        "|---|---|---|",
    ]

    def cell(value: Any) -> str:
        return value if isinstance(value, str) else f"{100 * value[0]:.1f} %"

    lines += [f"| {name} | {cell(was[name])} | {cell(now[name])} |" for name in now]
    return [*lines, "", RESAMPLES_SAY]


def main(arguments: list[str]) -> None:
    """Measure the present toolkit and the one before, write the page."""
    if arguments == ["--measure"]:
        print(json.dumps(measured()))
        return
    was, now = before(), measured()
    records = forecasts()
    date = datetime.date.today().isoformat()
    head = f"""# What the choices of a fit are worth

Generated by `python experiments/papers/choices.py` ({date}, 2 shared CPU cores); do not edit. Errors are
root mean squares of ln prediction - ln loss beyond the data, their geometric means over cases: the 20
language curves of Alabdulmohsin et al. as their benchmark splits them, and the tables of
[Forecasts](forecasts.md) over parameters and tokens, below 1/10 and 1/3 of the largest compute.

"""
    lines = [*which_law(records), *which_loss(records), *planted()]
    lines += which_resamples(was["dropped"], now["dropped"])
    lines += which_minima(was["minima"], now["minima"])
    text = head + "\n".join(lines) + "\n"
    (ROOT / "docs/reference/choices.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
