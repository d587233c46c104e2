"""Files into tables: CSV, JSON lines, and directories of runs."""

import csv
import dataclasses
import gzip
import json
import math
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO, Any

from scaling.laws.columns import typed
from scaling.laws.law import LawError
from scaling.laws.table import Table, number
from scaling.track import files
from scaling.track.points import kind
from scaling.track.run_dir import RunDirError, RunFacts, find_runs
from scaling.track.stream import StreamError

MAX_ROWS = 1_000_000
LONGEST = 1 << 28  # characters of a JSON document
MOST_ROWS = 10_000_000  # some 70 bytes per cell: three columns of these take 2 GB
COUNTS = ("total", "non_embedding", "active")
TABLES = (".csv", ".tsv", ".jsonl")  # each also with .gz
FILE = "file"  # the column that says which file of a folder a row is from
FLOP_COUNTS = ("six_nd", "exact")
RESERVED = ("params", "tokens", "loss", "flops", "run_id", "seed", "status", "step")


def read_table(
    path: str | pathlib.Path,
    *,
    max_rows: int = MAX_ROWS,
    params: str = "total",
    flops: str = "six_nd",
    curves: bool = False,
) -> Table:
    """Read a run table: `.csv`/`.tsv`, `.jsonl`/`.json`, also `.gz`, or a directory of runs.

    `.json` holds an object a line, or one document: an object (one row) or a list of them. A folder
    without runs but with tables, or else with `.json` files, is read as one table, with the column
    `file` (the name without suffix); columns that a file lacks are empty in its rows. Nested values
    are columns `eval.loss`, `results.0.loss`. Files are streamed and reading
    stops at `max_rows`. For a directory of runs, `params` and `flops` choose the convention and
    `curves` takes every evaluation of every run, not only the last.
    Raises LawError with the file, the row and the remedy.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise LawError(f"{path} does not exist")
    if max_rows > MOST_ROWS:
        raise LawError(
            f"--max-rows={max_rows} is above {MOST_ROWS:,}, which is as much as memory is planned "
            f"for; aggregate or thin the table first"
        )
    if path.is_dir() and (find_runs(path) or not _tables(path)):
        return read_runs(path, params=params, flops=flops, curves=curves)
    cells: dict[str, list[Any]] = {}
    for count, row in enumerate(_file_rows(path)):
        if count >= max_rows:
            raise LawError(
                f"{path} has more than {max_rows:,} rows; a law is fitted to one row per run (or a "
                f"few checkpoints of each): aggregate or thin it, or raise --max-rows"
            )
        for name in row:
            if name not in cells:
                cells[name] = [None] * count
        for name, values in cells.items():
            values.append(row.get(name))
    if not cells:
        raise LawError(f"{path} is empty: expected a header and one row per run")
    return Table.from_columns(cells, str(path))


def _tables(folder: pathlib.Path) -> list[pathlib.Path]:
    """The tables that lie in a folder itself, by name; without any, its `.json` files.

    Those of a run are not a table: its directory has a config.json.
    """
    inside = sorted(folder.iterdir())
    tables = [p for p in inside if _kind(p) in TABLES]
    if tables or (folder / "config.json").exists():
        return tables
    return [p for p in inside if _kind(p) == ".json"]


def _kind(path: pathlib.Path) -> str:
    """The suffix that says how a table is written, in small letters, that of compression aside."""
    return pathlib.Path(path.name.lower().removesuffix(".gz")).suffix


def _opened(path: pathlib.Path, errors: str = "strict") -> IO[str]:
    """A table's text with its line ends as they are, unpacked as it is read."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors=errors, newline="")
    return path.open(encoding="utf-8-sig", errors=errors, newline="")


def _file_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Rows of a table; or of all tables of a folder, with the column `FILE`."""
    if path.is_dir():
        for inside in _tables(path):
            stem = inside.name[: inside.name.lower().rindex(_kind(inside))]
            for row in _file_rows(inside):
                if FILE in row:
                    lines = typed(*(f"--runs={table}" for table in _tables(path)))
                    raise LawError(
                        f"{inside} has a column {FILE!r}, which would name the file; rename it, or "
                        f"read one table: write one of{lines}"
                    )
                yield {**row, FILE: stem}
        return
    suffix = _kind(path)
    if suffix not in (*TABLES, ".json"):
        raise LawError(
            f"{path}: {suffix or 'no suffix'} is not one of {', '.join(TABLES)}, or a folder"
        )
    try:
        yield from _csv_rows(path, suffix) if suffix in (".csv", ".tsv") else _json_rows(path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LawError(f"{path} cannot be unpacked: {error}; download it again") from None


def _csv_rows(path: pathlib.Path, suffix: str) -> Iterator[dict[str, Any]]:
    try:
        with _opened(path) as file:
            reader = csv.reader(file, delimiter="\t" if suffix == ".tsv" else ",")
            names = [n.strip() for n in next(reader, [])]
            spare = len(names) - len("\0".join(names).rstrip("\0").split("\0"))
            names = names[: len(names) - spare]  # a spreadsheet's empty columns at the right
            _check_header(path, names)
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                while spare and len(row) > len(names) and not row[-1].strip():
                    row.pop()
                if len(row) != len(names):
                    raise LawError(
                        f"{path}, line {reader.line_num}: {len(row)} cells under {len(names)} "
                        f"column names; quote cells that hold a comma"
                    )
                yield dict(zip(names, row, strict=True))
    except UnicodeDecodeError as error:
        raise LawError(f"{path} is not UTF-8 text ({error.reason}); save it as CSV text") from None
    except csv.Error as error:
        raise LawError(f"{path} cannot be read as CSV: {error}") from None


def _check_header(path: pathlib.Path, names: list[str]) -> None:
    repeated = sorted({n for n in names if n and names.count(n) > 1})
    if repeated:
        raise LawError(f"{path}: the header repeats {repeated}; rename one of them")
    if "" in names:
        raise LawError(
            f"{path}: column {names.index('') + 1} has no name in the header; give it one"
        )
    if names and not any(math.isnan(number(n)) for n in names):
        raise LawError(f"{path}: the first line holds numbers; it must hold the column names")
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), (",", "commas"), ("|", "bars")):
        if len(names) == 1 and mark in names[0]:
            form = ".tsv with tabs" if _kind(path) == ".tsv" else ".csv with commas"
            raise LawError(f"{path}: cells are separated by {word}; save it as {form}")


def _json_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """An object a line; of `.json` whose first line is not one, the rows of the whole document."""
    with _opened(path, errors="replace") as file:
        document = _kind(path) == ".json"
        for place, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row, reason = json.loads(line), "expected one JSON object a line"
            except json.JSONDecodeError as error:
                row, reason = None, f"not JSON ({error.msg})"
            if isinstance(row, dict):
                yield flatten(row)
                document = False
            elif document:
                yield from _document_rows(path, "\n" * (place - 1) + line + file.read(LONGEST + 1))
                return
            else:
                raise LawError(f"{path}, line {place}: {reason}")


def _document_rows(path: pathlib.Path, text: str) -> Iterator[dict[str, Any]]:
    if len(text) > LONGEST:
        raise LawError(
            f"{path} is one JSON document of over {LONGEST:,} characters, which has to be in memory "
            f"at once; write one object a line (.jsonl)"
        )
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise LawError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    rows = document if isinstance(document, list) else [document]
    if not all(isinstance(row, dict) for row in rows):
        raise LawError(f"{path}: expected an object, or a list of objects, one a run")
    yield from map(flatten, rows)


def flatten(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted columns: `{"eval": [{"loss": 2}]}` becomes `eval.0.loss`.

    Lists of anything else than objects, and true and false, are left out: no law reads them.
    """
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, list):
            value = {str(i): inner for i, inner in enumerate(value) if isinstance(inner, dict)}
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif not isinstance(value, bool):
            flat[f"{prefix}{key}"] = value
    return flat


def read_runs(
    folder: pathlib.Path, *, params: str = "total", flops: str = "six_nd", curves: bool = False
) -> Table:
    """Completed runs below a folder (every `summary.json`), one row each or one an evaluation.

    Runs that did not complete, or whose summary cannot be read, are excluded with the reason. Of a
    sweep, its axes are columns too, runs that share a trunk share a `run_id` (they are resampled
    together), and `curves` takes only points that the schedule makes valid, see
    `scaling.track.points`.
    """
    if params not in COUNTS:
        raise LawError(f"parameter count {params!r} is not one of {COUNTS}")
    if flops not in FLOP_COUNTS:
        raise LawError(f"FLOP count {flops!r} is not one of {FLOP_COUNTS}")
    sweep = _read_sweep(folder)
    runs = find_runs(folder)
    if not runs:
        raise LawError(
            f"{folder} holds no run (no summary.json below it) and no table ({', '.join(TABLES)}): "
            f"write one row a run into a table"
        )
    rows: list[dict[str, Any]] = []
    excluded: list[tuple[int, str]] = []
    for place, run in enumerate(runs, 1):
        try:
            status = run.summary.get("status")
            if status != "completed":
                excluded.append((place, f"{run.path.name}: status is {status!r}"))
                continue
            row = {**_run_row(run, params, flops), **sweep.get(run.path.name, {})}
            inside = _curve(row, run) if curves else [row]
            rows += _valid_inside(inside, run) if sweep else inside
        except (RunDirError, StreamError) as error:
            excluded.append((place, str(error)))
    if not rows:
        raise LawError(f"{folder}: none of {len(runs)} runs completed ({excluded[0][1]})")
    names = list(dict.fromkeys(n for row in rows for n in row))
    table = Table.from_columns({n: [row.get(n) for row in rows] for n in names}, str(folder))
    notes = {"params": f"{params} parameters of summary.json", "flops": f"{flops} of summary.json"}
    return dataclasses.replace(table, excluded=tuple(excluded), notes=notes)


def _read_sweep(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Columns that a sweep gives its runs, by run: its axes, and its trunk as the unit of resampling.

    Empty for a folder that is not a sweep. Axes do not replace what summary.json says.
    """
    path = folder / "sweep.json"
    if not path.exists():
        return {}
    try:
        columns = {}
        cells = files.read_json(path)["cells"]
        for cell in cells:
            axes = {k: v for k, v in cell["axes"].items() if k not in RESERVED}
            trunk = cell.get("trunk")
            columns[cell["id"]] = axes | ({"run_id": trunk, "trunk": trunk} if trunk else {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LawError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    return columns


def _valid_inside(rows: list[dict[str, Any]], run: RunFacts) -> list[dict[str, Any]]:
    """The end of a run, and points inside it that its schedule makes as good as shorter runs."""
    try:
        valid = [row for row in rows[:-1] if kind(run.config, row["steps"]) == "curve"]
    except KeyError:  # no config.json, or a schedule of the user's own
        valid = []
    return valid + rows[-1:]


def _run_row(run: RunFacts, params: str, flops: str) -> dict[str, Any]:
    """The columns of a run: every number and word of its summary, and those that laws speak of.

    `tokens` is what the run was trained on in its own unit, `loss` the value of its objective.
    """
    summary = flatten(run.summary)
    row: dict[str, Any] = {k: v for k, v in summary.items() if isinstance(v, int | float | str)}
    row["params"] = summary.get(f"params.{params}")
    row["tokens"] = summary.get("units", summary.get("tokens", summary.get("examples")))
    row["flops"] = summary.get(f"flops.{flops}")
    row["loss"] = summary.get(f"eval.{run.objective}")
    row["run_id"] = summary.get("run_id", run.path.name)
    return row


def _curve(row: dict[str, Any], run: RunFacts) -> list[dict[str, Any]]:
    """One row an evaluation of a run's metrics stream, tokens and FLOPs in proportion to steps."""
    last, key = run.summary.get("step"), f"eval/{run.objective}"
    rows = []
    for line in run.metrics if last else ():
        if key in line and line["step"]:
            share = line["step"] / last
            scaled = {k: row[k] * share for k in ("tokens", "flops") if row.get(k)}
            rows.append({**row, **scaled, "loss": line[key], "steps": line["step"]})
    return rows or [row]
