"""The table of plans in docs/results.md: compiles large configs for TPU slices that are not here.

    python scripts/bench/plan_table.py --out=DIR [--only=NAME,...]

Each case takes one to two minutes on two idle cores and 2 to 4 GB. A case whose report is in DIR is
not compiled again (delete it after a change of the code); the table of all reports is printed as
Markdown, beside what MaxText 0.2.5 compiles to for the same model, batch, topology and choice of what
is recomputed (its own ahead-of-time compile, jax 0.12.0.1, libtpu 0.0.50.1).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Case:
    """One compile; `maxtext` is its (peak GiB, FLOPs of the step / FLOPs of the model)."""

    name: str
    config: str
    topology: str
    overrides: tuple[str, ...]
    slices: int = 1
    maxtext: tuple[float, float] | None = None


def _llama(rows: int, devices: int, remat: str) -> tuple[str, ...]:
    return (f"train.batch_size={rows * devices}", f"model.remat={remat}")


# MaxText's default 16B: as its train_compile counts it.
DEFAULT_16B = (
    "model.num_layers=32",
    "model.model_dim=4096",
    "model.num_heads=32",
    "model.num_kv_heads=32",
    "model.head_dim=256",
    "model.mlp_dim=28672",
    "model.max_len=2048",
    "data.seq_len=2048",
)

CASES = (
    Case("7b-v5e-256", "llama.py:7b", "v5e-256", _llama(1, 256, "dots"), 1, (11.75, 1.063)),
    Case(
        "70b-v5p-1024",
        "llama.py:70b",
        "v5p-1024",
        _llama(2, 512, "dots_except_mlp"),
        1,
        (38.30, 1.209),
    ),
    Case(
        "16b-v5e-256",
        "llama.py:16b",
        "v5e-256",
        (*DEFAULT_16B, *_llama(6, 256, "full")),
        1,
        (8.64, 1.275),
    ),
    Case("7b-v5p-128", "llama.py:7b", "v5p-128", _llama(4, 64, "dots"), 1, (46.66, 1.063)),
    Case("124m-v5e-8", "gpt2.py:124m", "v5e-8", ("train.accumulate=6",)),
    Case(
        "70b-2xv5p-512",
        "llama.py:70b",
        "v5p:4x8x8",
        (*_llama(2, 512, "full"), "mesh.replica=2"),
        2,
    ),
    Case("7b-v6e-256", "llama.py:7b", "v6e-256", _llama(2, 256, "dots_attention")),
    Case(
        "7b-v5e-256-attention",
        "llama.py:7b",
        "v5e-256",
        _llama(1, 256, "dots_attention"),
        1,
        (11.75, 1.063),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the reports")
    parser.add_argument("--only", default="", help="names of cases, comma-separated")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = set(filter(None, options.only.split(",")))
    for case in CASES:
        path = options.out / f"{case.name}.json"
        if not path.exists() and (not wanted or case.name in wanted):
            compile_case(case, path)
    print(table(options.out))
    return 0


def compile_case(case: Case, path: pathlib.Path) -> None:
    """Compiles one case in a process of its own; notes its memory in the report."""
    print(f"{case.name} ...", file=sys.stderr, flush=True)
    command = [
        sys.executable,
        "-m",
        "scaling.plan",
        f"--config={ROOT / 'experiments' / case.config}",
        f"--topology={case.topology}",
        f"--json={path}",
        f"--hlo={path.with_suffix('.hlo')}",
        *(f"--config.{one}" for one in case.overrides),
    ]
    command += [f"--slices={case.slices}"] if case.slices > 1 else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(path.with_suffix(".log"), "w", encoding="utf-8") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        code = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not path.exists():
        print(f"{case.name}: exit {code}, see {path.with_suffix('.log')}", file=sys.stderr)
        return
    report = json.loads(path.read_text(encoding="utf-8"))
    report["process"] = {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "largest_so_far_gb": after.ru_maxrss * 1024 / 1e9,
    }
    path.write_text(json.dumps(report, indent=2), encoding="utf-8")


def table(folder: pathlib.Path) -> str:
    """Markdown of all reports in a folder."""
    lines = [
        "| case | mesh | remat | rows x length | arguments | peak GiB | of | FLOPs / model | gathered, "
        "reduced, other GB | step, s | compile s (CPU s) | MaxText peak, ratio |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in CASES:
        path = folder / f"{case.name}.json"
        if path.exists():
            lines.append(row(case, json.loads(path.read_text(encoding="utf-8"))))
    return "\n".join(lines)


def row(case: Case, report: dict) -> str:
    mesh = " ".join(f"{axis}={n}" for axis, n in report["mesh"].items() if n > 1)
    length = report["tokens"] / report["batch_size"]
    memory, estimate = report["memory"], report["estimate"]
    took = f"{report['seconds']['compile']:.0f} ({report['process']['cpu_seconds']:.0f})"
    cells = [case.name, mesh, report["remat"], f"{report['rows']:g} x {length:.0f}"]
    if memory is None:
        over = report["overflow"]
        cells += [
            "",
            f"needs {over['required'] / GiB:.2f}",
            f"{over['limit'] / GiB:.2f}",
            "",
            "",
            "",
        ]
    else:
        kinds = {"all-gather": 0.0, "all-reduce": 0.0, "other": 0.0}
        for one in report["traffic"]:
            kinds[one["kind"] if one["kind"] in kinds else "other"] += one["bytes"] / 1e9
        cells += [
            f"{memory['arguments'] / GiB:.2f}",
            f"{memory['peak'] / GiB:.2f}",
            f"{memory['limit'] / GiB:.2f}",
            f"{report['overhead']:.3f}",
            ", ".join(f"{value:.1f}" for value in kinds.values()),
            f"{estimate['low']:.2f} to {estimate['high']:.2f}",
        ]
    theirs = f"{case.maxtext[0]:.2f}, {case.maxtext[1]:.3f}" if case.maxtext else ""
    return "| " + " | ".join([*cells, took, theirs]) + " |"


if __name__ == "__main__":
    sys.exit(main())
