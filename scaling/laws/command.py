"""What `python -m scaling.fit` does once its flags are known: table, fit, record, report."""

from __future__ import annotations

import dataclasses
import math
import operator
import pathlib
import re
import shlex
import time
from collections.abc import Sequence
from platform import python_version
from typing import Any

import numpy as np
from scipy import __version__ as scipy_version

from scaling.laws.allocation import SIX_ND, FlopsPerToken, optimum, other_variables
from scaling.laws.arguments import FitOptions
from scaling.laws.backend import use_device
from scaling.laws.catalogue import LAWS, get_law
from scaling.laws.comparison import Score, compare, fold_masks, score, seed_noise, seed_weights
from scaling.laws.discrepancy import told
from scaling.laws.fitting import Result, fit, fit_problem
from scaling.laws.forecasting import forecast
from scaling.laws.isoflop import approaches, disagreement
from scaling.laws.law import LawError
from scaling.laws.losses import Loss
from scaling.laws.problem import Problem
from scaling.laws.profiles import Profile, profile, standard_errors
from scaling.laws.readers import read_table
from scaling.laws.report import render
from scaling.laws.resample import Draws, bootstrap
from scaling.laws.table import Table, missing_column
from scaling.track import files, provenance

OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A fit and what was made from it: `draws` and `profiles` are None and () if not asked for."""

    options: FitOptions
    table: Table
    result: Result
    draws: Draws | None
    profiles: Sequence[Profile]
    cost: FlopsPerToken

    @property
    def fixed(self) -> list[str]:
        """Parameters that were not fitted."""
        problem = self.result.problem
        slots = zip(self.result.law.names, problem.slots, strict=True)
        return [name for name, slot in slots if not problem.free[slot]]

    @property
    def swept(self) -> dict[str, list[float | None]]:
        """Profile intervals by parameter; tied parameters share that of the one that leads."""
        swept = {p.name: [p.low, p.high] for p in self.profiles}
        names, law = self.result.problem.names, self.result.law
        leaders = {n: names[i] for n, i in zip(law.names, self.result.problem.slots, strict=True)}
        return {name: swept[leader] for name, leader in leaders.items() if leader in swept}


def list_laws() -> str:
    """The catalogue, one law a line."""
    lines = []
    for name, law in LAWS.items():
        lines.append(f"{name:28s} {law.target.name} of {', '.join(v.name for v in law.variables)}")
        lines.append(f"{'':28s} {law.equation}")
    return "\n".join(lines)


def run(options: FitOptions, arguments: Sequence[str]) -> str:
    """Fit and write; returns the text for the terminal. Raises LawError for bad data or options."""
    began = time.perf_counter()
    if options.device != "cpu":
        _device(options.device)
    _check_uses(options)
    table, result = fitted(options)
    draws, profiles = None, list[Profile]()
    if options.bootstrap and result.problem.freedom:
        draws = bootstrap(result, options.bootstrap, options.resample, seed=options.seed)
    if options.profiles == "yes" and result.points > result.problem.freedom:
        names = result.problem.free_names
        profiles = [profile(result, name, options.level) for name in names]
    cost = SIX_ND if options.cost == "6nd" else FlopsPerToken.from_table(table)
    analysis = Analysis(options, table, result, draws, profiles, cost)
    record = make_record(analysis)
    record["command"] = shlex.join(["python", "-m", "scaling.fit", *arguments])
    record["seconds"] = round(time.perf_counter() - began, 3)
    write(record, analysis)
    return summary(record, options.out)


def fitted(options: FitOptions) -> tuple[Table, Result]:
    """The table and the law fitted to it, as the flags of `scaling.fit` say. Raises LawError."""
    law = get_law(options.law)
    loss = Loss(
        options.loss,
        options.delta or Loss.delta,
        options.space or law.space,
        options.reduction,
        options.over,
    )
    table = load(options)
    if options.weights and options.weights != "seeds":
        table = table.mapped({"weight": options.weights})
    result = fit(
        table,
        law,
        loss,
        fix=options.fix,
        tie=options.tie,
        bounds=options.bounds,
        starts=options.starts,
        seed=options.seed,
        # A combination is for forecasts, and those are nearer with the delta of the papers.
        adapt=options.delta is None and not law.members,
        lean=options.lean,
    )
    if options.weights == "seeds":
        result = _reweighted(result, options)
    return table, result


def _check_uses(options: FitOptions) -> None:
    """What is asked of the law must fit it: told before minutes of fitting, not after."""
    law = get_law(options.law)
    if options.budgets:
        other_variables(law, options.at)
    if options.predict and not options.bootstrap:
        raise LawError("--predict needs draws for its interval: set --bootstrap above 0")
    names = [v.name for v in law.variables]
    for point in options.predict:
        if set(names) != set(point):
            wrong = sorted(set(names) ^ set(point))
            raise LawError(f"--predict of law {law.name} needs exactly {names}; check {wrong}")
    for name in options.compare:
        other = get_law(name)
        if other.target.name != law.target.name:
            raise LawError(
                f"--compare={name} predicts {other.target.name}, {law.name} {law.target.name}: "
                f"compare like with like"
            )


def _device(name: str) -> None:
    try:
        use_device(name)
    except RuntimeError as error:
        raise LawError(f"--device={name}: no such device here ({error})") from None


def load(options: FitOptions) -> Table:
    """The table with columns mapped and rows excluded as the flags say."""
    table = read_table(
        options.runs,
        max_rows=options.max_rows,
        params=options.count,
        flops=options.flops,
        curves=options.curves,
    )
    table = table.mapped(options.columns)
    for rule in options.exclude:
        table = table.without(~_matches(table, rule), f"--exclude={rule}")
    return table


def _matches(table: Table, rule: str) -> np.ndarray:
    """Rows, [n], of which a rule such as `loss>=3.4` or `router==Hash` is true."""
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*", rule)
    if not match:
        raise LawError(f"--exclude={rule!r} is not COLUMN>VALUE (or >=, <, <=, ==, !=)")
    name, sign, value = match.groups()
    if name not in table.columns:
        raise LawError(missing_column(name, table.columns, table.source))
    try:
        return np.asarray(OPERATORS[sign](table.columns[name], float(value)))
    except ValueError:
        pass
    if sign not in ("==", "!="):
        raise LawError(f"--exclude={rule!r}: {value!r} is not a number")
    same = np.array([cell.strip() == value for cell in table.text[name]])
    if not same.any():
        known = sorted({cell.strip() for cell in table.text[name]})[:8]
        raise LawError(f"--exclude={rule!r}: no row holds {value!r}; {name} holds {known}")
    return same if sign == "==" else ~same


def _reweighted(result: Result, options: FitOptions) -> Result:
    problem = _seeds_weighed(result)
    again = fit_problem(problem, starts=options.starts, seed=options.seed)
    return dataclasses.replace(
        again,
        excluded=result.excluded,
        conventions={**result.conventions, "weights": "seed noise"},
        source=result.source,
        warnings=tuple(dict.fromkeys((*result.warnings, *again.warnings))),
    )


def _seeds_weighed(result: Result) -> Problem:
    problem = result.problem
    plain = dataclasses.replace(problem, weights=seed_weights(result), lean=0.0)
    return plain.leaning(problem.lean)


def make_record(analysis: Analysis) -> dict[str, Any]:
    """Everything that goes into fit.json and the report."""
    result, draws, options = analysis.result, analysis.draws, analysis.options
    boot = draws.intervals(options.level) if draws else {}
    fixed, swept = analysis.fixed, analysis.swept
    known = {**swept, **{name: list(interval) for name, interval in boot.items()}}
    loss = dataclasses.asdict(result.loss)
    return {
        "law": result.law.name,
        "equation": result.law.equation,
        "law_source": result.law.source,
        "parameters": result.parameters,
        "fixed": fixed,
        "intervals": {n: known[n] for n in result.parameters if n in known and n not in fixed},
        "level": options.level,
        "interval_note": _interval_note(draws, result),
        "standard_errors": standard_errors(result),
        "profile_intervals": swept,
        "derived": result.derived,
        "derived_intervals": {k: list(boot[k]) for k in result.derived if k in boot},
        "published": {p.label: dict(p.values) for p in result.law.published},
        "objective": result.objective,
        "gradient_norm": result.gradient_norm,
        "converged": result.converged,
        "points": result.points,
        "starts": result.starts,
        "reached": result.reached,
        "minima": [dataclasses.asdict(m) for m in result.minima],
        "at_bound": list(result.at_bound),
        "at_start": list(result.at_start),
        "excluded": [{"row": n, "reason": r} for n, r in result.excluded],
        "loss": loss if result.loss.kind == "huber" else {**loss, "delta": None},
        "conventions": result.conventions,
        "ranges": {k: list(v) for k, v in result.ranges.items()},
        "source": result.source,
        "cost": analysis.cost.name,
        **_uses(analysis),
        "seed": options.seed,
        "versions": {"python": python_version(), "scipy": scipy_version, **provenance.versions()},
    }


def _uses(analysis: Analysis) -> dict[str, Any]:
    """What the fit is good for: allocation, predictions, comparison; and all warnings."""
    result, draws, options = analysis.result, analysis.draws, analysis.options
    optima = []
    if options.budgets:
        optima = optimum(
            result,
            options.budgets,
            draws,
            cost=analysis.cost,
            inference_tokens=options.inference_tokens,
            at=options.at,
            level=options.level,
        )
    forecasts = []
    if options.predict and draws is not None:
        forecasts = [forecast(result, point, draws, options.level) for point in options.predict]
    ways, doubts = approaches(result, analysis.cost, options.seed)
    noise = seed_noise(result)
    boot = draws.intervals(options.level) if draws else {}
    apart = disagreement(ways, result.derived.get("a"), boot.get("a"))
    warnings = [*apart, *analysis.cost.warnings, *result.warnings, *_doubts(analysis)]
    warnings += [w for o in optima for w in o.warnings]
    for f in forecasts:
        point = ", ".join(f"{k} {v:.4g}" for k, v in f.variables.items())
        warnings += [f"prediction at {point}: {w}" for w in f.warnings]
    return {
        "warnings": list(dict.fromkeys([*warnings, *doubts])),
        "seed_noise": None if noise is None else {"deviation": noise[0], "freedom": noise[1]},
        "approaches": ways,
        "optimum": [{**dataclasses.asdict(o), "intervals": o.intervals or {}} for o in optima],
        "forecasts": [dataclasses.asdict(f) for f in forecasts],
        "comparison": [dataclasses.asdict(s) for s in _scores(analysis)],
    }


def _doubts(analysis: Analysis) -> list[str]:
    """What the intervals assume that does not hold."""
    result, draws = analysis.result, analysis.draws
    warnings = [w for p in analysis.profiles for w in p.warnings]
    if draws and draws.dropped:
        warnings.append(
            f"{draws.dropped} of {len(draws) + draws.dropped} resamples did not converge when "
            f"refitted, and are left out of the intervals"
        )
    runs = len(np.unique(result.problem.clusters))
    if draws and draws.kind == "points" and runs < result.points:
        warnings.append(
            f"{result.points} points of {runs} runs were resampled as if independent: intervals are "
            f"too narrow, use --resample=runs"
        )
    if draws and draws.kind == "runs" and draws.units < 2 * result.problem.freedom:
        warnings.append(
            f"only {draws.units} runs for {result.problem.freedom} free parameters: intervals from "
            f"resampled runs are rough"
        )
    if not draws and analysis.profiles:
        warnings.append(
            "no bootstrap was run: intervals are profiles and assume independent points"
        )
    elif not draws and result.problem.freedom:
        warnings.append(
            "neither a bootstrap nor profiles were run: the parameters have no intervals"
        )
    return warnings


def _interval_note(draws: Draws | None, result: Result) -> str:
    if draws is None:
        return "Intervals are profile likelihood; they assume independent points of equal noise."
    what = {"points": "points", "runs": "whole runs", "parametric": "Gaussian noise"}[draws.kind]
    percentiles = "expanded percentiles" if draws.squared else "plain percentiles (absolute errors)"
    return (
        f"Bootstrap: {len(draws)} resamples of {what} ({draws.units} units), each searched globally; "
        f"{percentiles}. Profiles assume independent points of equal noise: where the two "
        f"disagree, trust the bootstrap."
    )


def _scores(analysis: Analysis) -> list[Score]:
    """Errors on runs left out: of the law, and of those that --compare names."""
    result, options = analysis.result, analysis.options
    if not options.compare:
        spare = result.points - fold_masks(result.problem.clusters, 10).sum(axis=1).max()
        enough = result.problem.freedom and spare > result.problem.freedom
        return [score(result, seed=options.seed)] if enough else []
    others = [
        fit(
            analysis.table,
            name,
            result.loss,
            starts=options.starts,
            seed=options.seed,
            lean=options.lean,
        )
        for name in options.compare
        if name != result.law.name
    ]
    if options.weights == "seeds":
        others = [_reweighted(other, options) for other in others]
    return compare(analysis.table, [result, *others], result.loss, seed=options.seed)


def clean(value: object) -> Any:
    """A value that strict JSON can hold: no NaN or infinity, no numpy types."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def write(record: dict[str, Any], analysis: Analysis) -> None:
    """Figures, then the report, then fit.json last: its presence means that all is there."""
    try:
        from scaling.laws.figures import draw_all
    except ImportError as error:
        raise LawError(f"figures need matplotlib ({error}): pip install 'scaling[fit]'") from None
    out, strict = pathlib.Path(analysis.options.out), clean(record)
    shown = (analysis.result, analysis.draws, analysis.profiles)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "fit.json").unlink(missing_ok=True)
        figures = draw_all(*shown, out / "figures", analysis.cost)
        files.write_text(out / "report.html", render(strict, figures))
        files.write_json(out / "fit.json", strict)
    except OSError as error:
        raise LawError(f"cannot write to {out}: {error}") from None


def summary(record: dict[str, Any], out: str) -> str:
    """What the terminal shows."""
    lines = [f"{record['law']}: {record['equation']}"]
    for name, value in {**record["parameters"], **record["derived"]}.items():
        interval = {**record["intervals"], **record["derived_intervals"]}.get(name)
        text = ""
        if interval:
            low, high = (f"{v:.5g}" if v is not None else "open" for v in interval)
            text = f"   [{low}, {high}]"
        elif name in record["fixed"]:
            text = "   fixed"
        lines.append(f"  {name:18s} {value:<12.6g}{text}")
    lines.append(
        f"objective {record['objective']:.10g}, scaled gradient {record['gradient_norm']:.1e}, "
        f"{record['points']} points, {len(record['excluded'])} excluded"
    )
    for s in record["comparison"]:
        left_out = s["extrapolation"]
        far = "" if left_out is None else f", {left_out:.4g} on the largest budget left out"
        far += f", {s['rolling']:.4g} beyond rolling budgets" if s["rolling"] is not None else ""
        lines.append(f"error on runs held out, {s['law']}: {s['held_out']:.4g}{far}")
    for way in record["approaches"]:
        low, high = (f"{v:.4g}" if v is not None else "open" for v in way["interval"])
        lines.append(f"{way['approach']}: N* ~ C^{way['exponent']:.4g} [{low}, {high}]")
    for o in record["optimum"]:
        split = f"N* {o['params']:.4g}, D* {o['tokens']:.4g}, loss {o['loss']:.5g}"
        lines += [f"at {o['flops']:.3g} FLOP: {split}"]
    for f in record["forecasts"]:
        low, high = f["run_interval"]
        lines.append(f"predicted {f['value']:.5g} [{low:.5g}, {high:.5g}] at {f['variables']}")
        lines += [f"  {text}" for text in told(f["form"], f["public"], record["law"])]
    lines += [f"warning: {w}" for w in record["warnings"]]
    lines.append(f"wrote {out}/report.html, {out}/fit.json and {out}/figures/")
    return "\n".join(lines)
