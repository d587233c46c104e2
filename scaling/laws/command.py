"""What `python -m scaling.fit` does once its flags are known: table, fit, record, report."""

import csv
import dataclasses
import importlib.util
import io
import os
import pathlib
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from scaling.laws.allocation import SIX_ND, FlopsPerToken, other_variables
from scaling.laws.arguments import FitOptions
from scaling.laws.backend import use_device
from scaling.laws.catalogue import LAWS, get_law
from scaling.laws.checks import check_rows
from scaling.laws.discrepancy import told
from scaling.laws.fitting import Result, fit
from scaling.laws.law import LawError
from scaling.laws.losses import Loss
from scaling.laws.profiles import Profile, profile
from scaling.laws.progress import step
from scaling.laws.readers import read_table
from scaling.laws.record import Analysis, clean, make_record, reweighted
from scaling.laws.report import bracketed, estimates, render
from scaling.laws.resample import bootstrap
from scaling.laws.rows import best_of, groups, last_of, matching
from scaling.laws.table import Table
from scaling.track import files

FIELDS = ("group", "points", "name", "value", "low", "high", "folder")  # of groups.csv


def list_laws() -> str:
    """The catalogue, one law a line."""
    lines = []
    for name, law in LAWS.items():
        lines.append(f"{name:28s} {law.target.name} of {', '.join(v.name for v in law.variables)}")
        lines.append(f"{'':28s} {law.equation}")
    return "\n".join(lines)


def run(options: FitOptions, arguments: Sequence[str]) -> str:
    """Fit and write; returns the text for the terminal. Raises LawError for bad data or options."""
    if options.device != "cpu":
        try:
            use_device(options.device)
        except RuntimeError as error:
            raise LawError(f"--device={options.device}: no such device here ({error})") from None
    _check_uses(options)
    _check_output(pathlib.Path(options.out))
    if options.by:
        return _fit_groups(options, arguments, read(options))
    return summary(_analysed(options, arguments, read(options)), options.out)


def _fit_groups(options: FitOptions, arguments: Sequence[str], table: Table) -> str:
    """`--by`: fits each group, and writes one table of what came out, groups.csv and groups.json.

    A group that cannot be fitted is named with the reason and does not stop the others. Returns the
    text for the terminal. Raises LawError if none could be fitted.
    """
    folder, parts = pathlib.Path(options.out), groups(table, options.by)
    # Letters, digits, dots and dashes, 60 at most.
    names = {k: re.sub(r"[^\w.-]+", "-", k).strip("-.")[:60] or "group" for k in parts}
    clash = sorted({v for v in names.values() if list(names.values()).count(v) > 1})
    if clash:
        raise LawError(f"--by={options.by}: several values would share the folder {clash[0]!r}")
    records: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for group, keep in parts.items():
        rule, out = f"{options.by}!={group}", str(folder / names[group])
        inside = dataclasses.replace(options, out=out, by="", exclude=[*options.exclude, rule])
        # The command in a group's fit.json fits that group alone.
        words = [*_without(arguments, "by", "out"), f"--exclude={rule}", f"--out={out}"]
        try:
            records[group] = clean(_analysed(inside, words, table.part(keep)))
        except LawError as error:
            failed[group] = str(error)
    if not records:
        group, reason = next(iter(failed.items()))
        raise LawError(
            f"--by={options.by}: none of {len(failed)} groups was fitted; {group}: {reason}"
        )
    rows = []
    for group, record in records.items():
        for name, value, interval in estimates(record):
            ends = interval or (None, None)
            cells = (group, record["points"], name, value, *ends, names[group])
            rows.append(dict(zip(FIELDS, cells, strict=True)))
    spare = len(table) - sum(int(keep.sum()) for keep in parts.values())
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(folder / "groups.csv", text.getvalue())
    shared = {"by": options.by, "law": options.law, "failed": failed, "rows_in_no_group": spare}
    files.write_json(folder / "groups.json", {**shared, "rows": rows})
    return _groups_summary(options, records, rows, failed, spare)


def _without(arguments: Sequence[str], *flags: str) -> list[str]:
    """A command line without some flags and their values."""
    kept, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word in (f"--{flag}" for flag in flags):
            rest.pop(0)
        elif not any(word.startswith(f"--{flag}=") for flag in flags):
            kept.append(word)
    return kept


def _analysed(options: FitOptions, arguments: Sequence[str], table: Table) -> dict[str, Any]:
    """Fits a table that is read, writes all files, and returns what is in fit.json."""
    began = time.perf_counter()
    with step(f"fit of {options.law}"):
        table, result = fitted(options, table)
    draws, profiles = None, list[Profile]()
    if options.bootstrap and result.problem.freedom:
        with step(f"bootstrap of {options.bootstrap:,} resamples"):
            draws = bootstrap(result, options.bootstrap, options.resample, seed=options.seed)
    if options.profiles == "yes" and result.points > result.problem.freedom:
        for name in result.problem.free_names:
            with step(f"profile of {name}"):
                profiles.append(profile(result, name, options.level))
    cost = SIX_ND if options.cost == "6nd" else FlopsPerToken.from_table(table)
    analysis = Analysis(options, table, result, draws, profiles, cost)
    with step("fits with runs left out"):
        record = make_record(analysis)
    record["command"] = shlex.join(["python", "-m", "scaling.fit", *arguments])
    record["seconds"] = round(time.perf_counter() - began, 3)
    with step("figures"):
        write(record, analysis)
    return record


def fitted(options: FitOptions, table: Table | None = None) -> tuple[Table, Result]:
    """The table and the law fitted to it, as the flags of `scaling.fit` say. Raises LawError.

    `table` is what `read` gave, or a part of it.
    """
    if options.by and table is None:
        raise LawError(f"--by={options.by} fits several laws; name one group's fit.json")
    law = get_law(options.law)
    loss = Loss(
        options.loss,
        options.delta or Loss.delta,
        options.space or law.space,
        options.reduction,
        options.over,
    )
    table = chosen(read(options) if table is None else table, options)
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
        result = reweighted(result, options)
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


def _check_output(out: pathlib.Path) -> None:
    """The report can be drawn and written there: told before minutes of fitting, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise LawError("the report's figures need matplotlib: pip install 'scaling[fit]'")
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise LawError(f"--out={out}: {there} is not a folder you can write to; name another")


def read(options: FitOptions) -> Table:
    """The table with columns mapped and rows excluded as the flags say."""
    table = read_table(
        options.runs,
        max_rows=options.max_rows,
        params=options.count,
        flops=options.flops,
        curves=options.curves,
    )
    table = (table.spelled_out() if options.spelled else table).mapped(options.columns)
    for rule in options.exclude:
        table = table.without(~matching(table, rule), f"--exclude={rule}")
    return table


def chosen(table: Table, options: FitOptions) -> Table:
    """The last rows of runs and the best of sweeps. Raises LawError where neither was asked for."""
    law = get_law(options.law)
    if options.last_of:
        table = table.without(last_of(table, options.last_of), f"--last_of={options.last_of}")
    if options.best_of:
        reason = f"--best_of={','.join(options.best_of)}"
        table = table.without(best_of(table, law, options.best_of), reason)
    if not options.all_rows:
        check_rows(table, law)
    return table


def write(record: dict[str, Any], analysis: Analysis) -> None:
    """Figures, then the report, then fit.json last: its presence means that all is there."""
    from scaling.laws.figures import Fitted, draw_all

    out, strict = pathlib.Path(analysis.options.out), clean(record)
    fit = Fitted(analysis.result, analysis.draws, analysis.profiles, analysis.cost)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "fit.json").unlink(missing_ok=True)
        figures = draw_all(fit, out / "figures")
        files.write_text(out / "report.html", render(strict, figures))
        files.write_json(out / "fit.json", strict)
    except OSError as error:
        raise LawError(f"cannot write to {out}: {error}") from None


def summary(record: dict[str, Any], out: str) -> str:
    """What the terminal shows."""
    lines = [f"{record['law']}: {record['equation']}"]
    for name, value, interval in estimates(record):
        text = f"   {bracketed(interval)}" if interval else ""
        text = "   fixed" if name in record["fixed"] else text
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
        ends = bracketed(way["interval"], 4)
        lines.append(f"{way['approach']}: N* ~ C^{way['exponent']:.4g} {ends}")
    for o in record["optimum"]:
        split = f"N* {o['params']:.4g}, D* {o['tokens']:.4g}, loss {o['loss']:.5g}"
        lines.append(f"at {o['flops']:.3g} FLOP: {split}")
    for f in record["forecasts"]:
        ends = bracketed(f["run_interval"])
        lines.append(f"predicted {f['value']:.5g} {ends} at {f['variables']}")
        lines += [f"  {text}" for text in told(f["form"], f["public"], record["law"])]
    lines += [f"warning: {w}" for w in record["warnings"]]
    lines.append(f"wrote {out}/report.html, {out}/fit.json and {out}/figures/")
    return "\n".join(lines)


def _groups_summary(
    options: FitOptions,
    records: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    failed: Mapping[str, str],
    spare: int,
) -> str:
    """One line a parameter and group, so that groups stand below each other; then what went wrong."""
    first = next(iter(records.values()))
    lines = [f"{first['law']} by {options.by}: {first['equation']}"]
    width = max(map(len, records))
    for name in dict.fromkeys(row["name"] for row in rows):
        lines.append(name)
        for row in rows:
            if row["name"] == name:
                ends = row["low"], row["high"]
                span = f"   {bracketed(ends)}" if ends != (None, None) else ""
                lines.append(f"  {row['group']:{width}s} {row['value']:<12.6g}{span}")
    for group, record in records.items():
        count = len(record["warnings"])
        lines.append(f"{group}: {record['points']} points, {count} warnings in its report")
    lines += [f"error: {group} was not fitted: {reason}" for group, reason in failed.items()]
    if spare:
        lines.append(f"warning: {spare} rows have no {options.by} and are in no group")
    lines.append(f"wrote {options.out}/groups.csv, {options.out}/groups.json and a folder a group")
    return "\n".join(lines)
