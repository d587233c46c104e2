"""`--by=COLUMN`: one law fitted to each group of a table, and one table of what came out."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from scaling.laws.arguments import FitOptions
from scaling.laws.law import LawError
from scaling.laws.report import bracketed, estimates
from scaling.laws.rows import groups
from scaling.laws.table import Table
from scaling.track import files

FIELDS = ("group", "points", "name", "value", "low", "high", "folder")
Row = Mapping[str, Any]


def folder_name(group: str) -> str:
    """A group's value as the name of its folder: letters, digits, dots and dashes, 60 at most."""
    return re.sub(r"[^\w.-]+", "-", group).strip("-.")[:60] or "group"


def fit_groups(
    table: Table, options: FitOptions, one: Callable[[FitOptions, Table], dict[str, Any]]
) -> str:
    """Fits each group by `one`, which returns its record; writes groups.csv and groups.json.

    A group that cannot be fitted is named with the reason and does not stop the others. Returns the
    text for the terminal. Raises LawError if none could be fitted.
    """
    out, parts = pathlib.Path(options.out), groups(table, options.by)
    names = {group: folder_name(group) for group in parts}
    clash = sorted({v for v in names.values() if list(names.values()).count(v) > 1})
    if clash:
        raise LawError(f"--by={options.by}: several values would share the folder {clash[0]!r}")
    records: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for group, keep in parts.items():
        inside = dataclasses.replace(
            options, out=str(out / names[group]), by="",
            exclude=[*options.exclude, f"{options.by}!={group}"],
        )  # fmt: skip
        try:
            records[group] = one(inside, table.part(keep))
        except LawError as error:
            failed[group] = str(error)
    if not records:
        group, reason = next(iter(failed.items()))
        raise LawError(
            f"--by={options.by}: none of {len(failed)} groups was fitted; {group}: {reason}"
        )
    rows = [row for group, record in records.items() for row in _rows(group, record, names[group])]
    spare = len(table) - sum(int(keep.sum()) for keep in parts.values())
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(out / "groups.csv", text.getvalue())
    shared = {"by": options.by, "law": options.law, "failed": failed, "rows_in_no_group": spare}
    files.write_json(out / "groups.json", {**shared, "rows": rows})
    return _summary(options, records, rows, failed, spare)


def _rows(group: str, record: Row, folder: str) -> list[dict[str, Any]]:
    """Parameters and derived quantities of a group with their intervals (None where there is none)."""
    rows = []
    for name, value, interval in estimates(record):
        cells = (group, record["points"], name, value, *(interval or (None, None)), folder)
        rows.append(dict(zip(FIELDS, cells, strict=True)))
    return rows


def _summary(
    options: FitOptions,
    records: Mapping[str, Row],
    rows: list[dict[str, Any]],
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
