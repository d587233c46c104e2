"""Forecasts outside the data, on public tables: tunes the form's part of the intervals and judges it.

`python experiments/papers/extrapolation.py [--cache=DIR]` writes scaling/laws/discrepancy.json and
docs/reference/forecasts.md. Each table is fitted below 1/3, 1/10 and 1/30 of its largest compute
and asked for the rest. Constants that judge a family are tuned on the other families alone.
Fits are kept under --cache (runs/extrapolation): the first time takes many minutes, then 34 s on 2
CPU cores.
"""

from __future__ import annotations

import datetime
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from extrapolation_tables import (
    REPEATED,
    ROUTED,
    SURFACE,
    Array,
    Columns,
    others,
    surfaces,
)
from scipy import stats
from tables import ROOT

from scaling.laws import LawError, Loss, bootstrap, fit, get_law
from scaling.laws.discrepancy import Constants
from scaling.laws.forecasting import simulate

CUTS, RESAMPLES, STARTS, POINTS, MOST = (10, 30, 3), 100, 8, 25, 250
QUANTILES = (np.arange(40) + 0.5) / 40
GRID = {
    "per_decade": (0.0, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03),
    "misfit": (0.0, 0.5, 1.0, 1.5, 2.0),
    "disagreement": (0.0, 0.15, 0.3, 0.45, 0.6, 0.8),
    "freedom": (3.0, 5.0, 30.0),
}
BANDS = (3.0, 10.0, 30.0, 100.0)
Record = dict[str, Array]


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


def made(cut: int, laws: tuple[str, ...], data: Columns) -> Record | None:
    """The fits of one split, and what they say of the rest; None if too few."""
    inside, outside = split(cut, data)
    if len(inside) < 8:
        return None
    fitted = {k: v[inside] for k, v in data.items()}
    record = {"came": np.log(data["loss"][outside])}
    for use, name in zip(("alone", "combined"), laws, strict=False):
        result = fit(fitted, get_law(name), Loss(space="log"), starts=STARTS)
        try:
            draws = bootstrap(result, RESAMPLES)
        except LawError:  # most resamples fail: the toolkit gives no interval either
            return None
        tails = [draws.levels(level)[0] for level in (0.95, 0.5)]
        numbers, quantiles = [], []
        for i in outside:
            point = {k: float(v[i]) for k, v in data.items() if k != "loss"}
            # Without the form's part (factor 0): that is what is tuned here.
            one = simulate(result, point, draws, graded=0.0)
            assert one.form is not None
            form = one.form
            numbers.append(
                (form.decades, np.log(one.value), form.misfit, form.disagreement, *tails)
            )
            runs = one.runs[np.isfinite(one.runs)]
            quantiles.append(np.log(np.quantile(runs, QUANTILES)))
        if name == "combined":
            plain = fit(fitted, result.law, Loss(space="log"), starts=STARTS, lean=0.0)
            wanted = {k: v[outside] for k, v in data.items() if k != "loss"}
            record["median"] = np.log(plain.predict(**wanted))
        record[f"{use}/numbers"] = np.array(numbers)
        record[f"{use}/quantiles"] = np.array(quantiles)
    return record


def records(cache: pathlib.Path, cuts: Sequence[int]) -> Iterator[tuple[str, str, Record]]:
    """(family, table, record) of all, from the cache where they are there."""
    cache.mkdir(parents=True, exist_ok=True)
    for cut in cuts:
        for family, name, laws, data in itertools.chain(surfaces(), others()):
            path = cache / f"{family}~{name.replace('/', '_').replace(' ', '_')}~{cut}.npz"
            if not path.exists():
                record = made(cut, laws, data)
                np.savez(path, **(record or {}))
                print(f"{path.name}", flush=True)
            record = dict(np.load(path))
            if record:
                yield family, f"{name} / {cut}", record


class Points:
    """Forecasts of many points: arrays over points, [n], and quantiles of their draws, [n, q]."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self.numbers: list[Array] = []
        self.quantiles: list[Array] = []

    def add(self, family: str, table: str, record: Record, use: str) -> None:
        """What a law (`use` alone) or a combination says of the points of one record."""
        numbers = np.column_stack([record["came"], record[f"{use}/numbers"]])
        self.names += [(family, table)] * len(numbers)
        self.numbers.append(numbers)
        self.quantiles.append(record[f"{use}/quantiles"])

    def joined(self, other: Points) -> Points:
        """Those of both."""
        both = Points()
        both.names = self.names + other.names
        both.numbers, both.quantiles = (
            self.numbers + other.numbers,
            self.quantiles + other.quantiles,
        )
        return both

    def stacked(self) -> tuple[Array, Array, Array, Array]:
        """(families [n], tables [n], numbers [7, n], quantiles [n, q])."""
        families, tables = (np.array([name[i] for name in self.names]) for i in (0, 1))
        return families, tables, np.concatenate(self.numbers).T, np.concatenate(self.quantiles)


Judged = Array  # [4, n]: inside 95, inside 50, half-width in %, interval score in %


def judge(points: Points, of: Constants | None) -> Judged:
    """Coverage, half-width and interval score of each point; `of` None leaves the form out."""
    _, _, (came, far, value, size, apart, tail, quarter), quantiles = points.stacked()
    if of is not None:
        spread = of.scale(far, size, apart)[:, None, None]
        t = stats.t.ppf(QUANTILES, of.freedom)
        quantiles = (quantiles[:, :, None] + spread * t).reshape(len(far), -1)
    quantiles = np.sort(quantiles, axis=1)

    def ends(level: Array) -> tuple[Array, Array]:
        at = level * (quantiles.shape[1] - 1)
        rows = np.arange(len(at))
        low, high = (
            quantiles[rows, np.rint(x).astype(int)] for x in (at, quantiles.shape[1] - 1 - at)
        )
        return np.minimum(low, value), np.maximum(high, value)

    (low, high), (low50, high50) = ends(tail), ends(quarter)
    missed = np.maximum(low - came, 0) + np.maximum(came - high, 0)
    return np.stack(
        [
            (low <= came) & (came <= high),
            (low50 <= came) & (came <= high50),
            50 * (high - low),
            100 * (high - low + 40 * missed),
        ]
    ).astype(float)


def averaged(points: Points, judged: Judged, keep: Array | None = None) -> dict[str, Array]:
    """By family: the mean over its tables of their means, [4], of the points in `keep`."""
    families, names, _, _ = points.stacked()
    keep = np.ones(len(families), bool) if keep is None else keep
    means: dict[str, Array] = {}
    for family in np.unique(families[keep]):
        own = keep & (families == family)
        each = [judged[:, own & (names == name)].mean(axis=1) for name in np.unique(names[own])]
        means[str(family)] = np.mean(each, axis=0)
    return means


def tuned(by_constants: dict[Constants, dict[str, Array]], without: str) -> Constants:
    """The constants with the best interval score among the calibrated, on all but one family."""

    def cost(means: dict[str, Array]) -> float:
        rows = np.array([row for family, row in means.items() if family != without])
        # A family that is covered too often does not pay for one that is missed.
        short = np.maximum(0.95 - rows[:, 0], 0).mean() + np.maximum(0.5 - rows[:, 1], 0).mean() / 4
        return float(np.mean(np.log(rows[:, 3])) + 4 * short)

    return min(by_constants, key=lambda of: cost(by_constants[of]))


def searched(points: Points, rivals: bool) -> tuple[Constants, Judged, dict[str, Constants]]:
    """(constants from all families, each family judged by those from the others, and those)."""
    grid = GRID if rivals else GRID | {"disagreement": (0.0,)}
    tries = [Constants(*values) for values in itertools.product(*grid.values())]
    results = {of: averaged(points, judge(points, of)) for of in tries}
    families = points.stacked()[0]
    nested, judged = {}, np.full((4, len(families)), np.nan)
    for family in np.unique(families):
        nested[str(family)] = tuned(results, str(family))
        own = families == family
        judged[:, own] = judge(points, nested[str(family)])[:, own]
    return tuned(results, ""), judged, nested


def line(name: str, before: Array, after: Array, points: int) -> str:
    """One row of the table."""
    cells = [
        f"{100 * m[0]:.0f} / {100 * m[1]:.0f} | {m[2]:.1f} % | {m[3]:.1f}" for m in (before, after)
    ]
    return f"| {name} | {points} | {' | '.join(cells)} |"


HEAD = """# Forecasts outside the data

Generated by `python experiments/papers/extrapolation.py` (DATE, 2-core CPU machine); do not edit.

A forecast's interval contains three uncertainties: of the **parameters** (bootstrap), of the **run**
(residuals of the fit), and, outside the data, of the law's **form**: a Student t in ln(loss) whose scale
grows with the decades outside the data, with the misfit inside them and, for a combination of laws, with
their disagreement; see `scaling.laws.discrepancy`. Inside the data the form adds nothing. A part whose
constant below is 0 did not earn its place on these tables.

Below, each public table is fitted on its runs below 1/3, 1/10 and 1/30 of the largest compute and
asked for the rest. *Before*: one law (`chinchilla`, `m2`, or the table's own) without the form's part.
*After*: a combination leaning on the large runs, with constants tuned on the **other** families:
LAWS
Tables of other variables keep their one law. Coverage is of 95 / 50 % intervals; the score is
the interval score at 95 % (width plus 40 times the miss) in % of the loss, lower is better; *in
hindsight* is the least score about the same predictions, of one width a table chosen when the outcomes are
known: what is left is to be had from better predictions alone. Tables weigh the same within a family,
families the same in the mean.

"""


HEADER = (
    "| | points | before: 95 / 50 | half-width | score | after: 95 / 50 | half-width | score |\n"
    "|---|---|---|---|---|---|---|---|"
)


def mean(of: dict[str, Array]) -> Array:
    """Of families."""
    return np.asarray(np.mean(list(of.values()), axis=0))


def hindsight(points: Points) -> dict[str, float]:
    """By family: the least score about the same centres, of one half-width a table that knows them.

    It is the 95 % quantile of the errors: a wider one costs more than what it still catches.
    """
    families, names, (came, _, value, *_), _ = points.stacked()
    errors, least = np.abs(value - came), dict[str, list[float]]()
    for family, name in dict.fromkeys(zip(families, names, strict=True)):
        size = errors[(families == family) & (names == name)]
        half = np.quantile(size, 0.95, method="higher")
        score = 100 * np.mean(2 * half + 40 * np.maximum(size - half, 0))
        least.setdefault(str(family), []).append(float(score))
    return {family: float(np.mean(scores)) for family, scores in least.items()}


def by_family(before: Points, after: Points, judged: Judged) -> list[str]:
    """The table by left-out family."""
    families = after.stacked()[0]
    first, last = averaged(before, judge(before, None)), averaged(after, judged)
    least = hindsight(after)
    names, rule = HEADER.split("\n")
    lines = ["## By left-out family", "", f"{names} in hindsight |", f"{rule}---|"]
    for f in first:
        lines.append(f"{line(f, first[f], last[f], int(np.sum(families == f)))} {least[f]:.1f} |")
    total = line("**mean of families**", mean(first), mean(last), len(families))
    lines.append(f"{total} {np.mean(list(least.values())):.1f} |")
    ratio = np.exp(np.mean([np.log(last[f][3] / first[f][3]) for f in first]))
    return [*lines, "", f"Geometric mean over families of score after / score before: {ratio:.2f}."]


def by_distance(
    before: Points, after: Points, judged: Judged
) -> tuple[list[str], list[dict[str, float]]]:
    """(the table by distance, coverage by distance)."""
    lines, bands, low = ["", "## By distance", "", HEADER], [], 1.0
    for high in BANDS:
        pair = []
        for points, each in ((before, judge(before, None)), (after, judged)):
            far = points.stacked()[2][1]
            keep = (far > np.log10(low) + 1e-12) & (far <= np.log10(high))
            pair.append(mean(averaged(points, each, keep)))
        lines.append(line(f"{low:g} to {high:g} times", *pair, int(keep.sum())))
        inside95, inside50 = (float(share) for share in pair[1][:2])
        bands.append(
            {"to": high, "inside95": inside95, "inside50": inside50, "points": float(keep.sum())}
        )
        low = high
    return lines, bands


def inside_the_data(cache: pathlib.Path) -> list[str]:
    """The table of random fifths of each table, predicted from the rest: points inside alone."""
    pair = Points(), Points()
    for family, name, record in records(cache, (1,)):
        best = "combined" if "combined/numbers" in record else "alone"
        for points, use in zip(pair, ("alone", best), strict=True):
            points.add(family, name, record, use)
    means, count = [], 0
    for points in pair:
        keep = points.stacked()[2][1] <= 0
        means.append(mean(averaged(points, judge(points, None), keep)))
        count = int(keep.sum())
    text = "A random fifth of each table, asked of the rest; the points inside it."
    return [
        "",
        "## Inside the data",
        "",
        text,
        "",
        HEADER,
        line("**mean of families**", *means, count),
    ]


def centres(errors: dict[str, list[Array]]) -> list[str]:
    """Root mean square errors in ln(loss), [tables, 3] by family: of one law and of the medians."""
    lines = ["", "## Without intervals", ""]
    lines += ["Root mean square error of the prediction, tables over parameters and tokens.", ""]
    lines += ["| | one law | median | median, leaning |", "|---|---|---|---|"]
    means = {family: np.sqrt(np.mean(rows, axis=0)) for family, rows in sorted(errors.items())}
    geometric = np.exp(np.mean(np.log(list(means.values())), axis=0))
    for name, row in {**means, "**geometric mean of families**": geometric}.items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * error:.2f} %" for error in row) + " |")
    return lines


def constants_table(tuned_on: dict[str, Constants]) -> list[str]:
    """One row for each set of constants."""
    names = ["per_decade", "misfit", "disagreement", "freedom"]
    lines = [
        "",
        "## Constants",
        "",
        "| tuned on | " + " | ".join(names) + " |",
        "|---|---|---|---|---|",
    ]
    for label, of in tuned_on.items():
        lines.append(f"| {label} | " + " | ".join(f"{getattr(of, n):g}" for n in names) + " |")
    return lines


def main(arguments: list[str]) -> None:
    """Fit or load everything, tune, judge, write."""
    cache = ROOT / "runs" / "extrapolation"
    for argument in arguments:
        cache = pathlib.Path(argument.removeprefix("--cache="))
    alone, combined, rest = Points(), Points(), Points()
    errors: dict[str, list[Array]] = {}
    for family, name, record in records(cache, CUTS):
        alone.add(family, name, record, "alone")
        if "combined/numbers" in record:
            combined.add(family, name, record, "combined")
        else:
            rest.add(family, name, record, "alone")
        if "median" in record:
            values = [record["alone/numbers"][:, 1], record["median"]]
            values.append(record["combined/numbers"][:, 1])
            squares = np.mean((np.array(values) - record["came"]) ** 2, axis=1)
            errors.setdefault(family, []).append(squares)
    both, judged, nested = searched(combined, rivals=True)
    single, single_judged, single_nested = searched(alone, rivals=False)
    families, after = rest.stacked()[0], combined.joined(rest)
    judged_rest = np.full((4, len(families)), np.nan)
    for family in np.unique(families):
        mine = families == family
        judged_rest[:, mine] = judge(rest, single_nested[str(family)])[:, mine]
    judged = np.concatenate([judged, judged_rest], axis=1)
    middle, bands = by_distance(alone, after, judged)
    lines = [*by_family(alone, after, judged), *middle, *inside_the_data(cache), *centres(errors)]
    lines += ["", "## One law that stands alone", "", "No combination anywhere.", "", HEADER]
    pair = (averaged(alone, judge(alone, None)), averaged(alone, single_judged))
    lines.append(line("**mean of families**", *map(mean, pair), len(alone.names)))
    lines += constants_table(
        {"all, a combination": both, "all, one law": single}
        | {f"all but {family}, a combination": of for family, of in nested.items()}
    )
    content = {
        "source": "python experiments/papers/extrapolation.py",
        "families": len(set(after.stacked()[0])),
        "constants": {"combined": vars(both), "alone": vars(single)},
        "coverage": bands,
    }
    path = ROOT / "scaling/laws/discrepancy.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    laws = (SURFACE[1], REPEATED[1], ROUTED[1])
    text = HEAD.replace(
        "LAWS", "\n".join(f"`{name}`, the {get_law(name).equation};" for name in laws)
    )
    text = text.replace("DATE", datetime.date.today().isoformat()) + "\n".join(lines) + "\n"
    (ROOT / "docs/reference/forecasts.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
