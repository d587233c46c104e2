"""Speed of the law fits beside scipy doing the same work, in one run.

    nice python scripts/bench/laws_speed.py [--scipy-starts=40] [--scipy-resamples=40] [--device=gpu]
    nice python scripts/bench/laws_speed.py --rows=2000 --laws=all --resamples=1000
    nice python scripts/bench/laws_speed.py --fits=1000   # memory while tables of all sizes are fitted

Data: the 240 points of Besiroglu et al. 2024. scipy is timed on a sample and scaled to the whole
(4,500 starts, 4,000 resamples); ours is the whole, after compilation. Wall and CPU seconds are
both shown, because wall time means nothing on a shared machine.

Measured 2026-11-22 on 2 cores of an AMD EPYC, JAX 0.10.2, in one run (wall seconds / CPU seconds):

    global Huber fit, default call                  0.087 / 0.111   all random starts reach the optimum
    scipy L-BFGS-B, 4,500 starts (scaled)           40.7 / 81.1     10 % reach it
    4,000 bootstraps, globally searched, squared    2.0 / 3.5
    4,000 bootstraps, globally searched, Huber      4.1 / 7.3
    scipy BFGS, one start each, Huber (scaled)      47.5 / 47.4
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize, special

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "experiments" / "papers"))

import besiroglu  # noqa: E402

from scaling.laws import Loss, bootstrap, fit, get_law, use_device  # noqa: E402
from scaling.laws.catalogue import LAWS  # noqa: E402
from scaling.laws.fitting import Result  # noqa: E402
from scaling.laws.problem import build_problem  # noqa: E402
from scaling.laws.screen import choose, screen  # noqa: E402
from scaling.laws.solver import solve  # noqa: E402
from scaling.laws.table import Table  # noqa: E402

BEST = 0.0010182740178
HOFFMANN = (6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, wall seconds, CPU seconds)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def scipy_objective(n: np.ndarray, d: np.ndarray, y: np.ndarray, w: np.ndarray) -> Any:
    """Huber 1e-3 of the log-sum-exp form and its analytic gradient, as the papers write it."""
    ln, ld, ly = np.log(n), np.log(d), np.log(y)

    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = x
        terms = np.stack([a - alpha * ln, b - beta * ld, np.full_like(ln, e)])
        total = special.logsumexp(terms, axis=0)
        r = total - ly
        share = np.exp(terms - total)
        psi = w * np.clip(r, -1e-3, 1e-3)
        gradient = [share[0], share[1], share[2], -share[0] * ln, -share[1] * ld]
        return float(np.sum(w * special.huber(1e-3, r))), np.array([psi @ g for g in gradient])

    return both


def line(name: str, wall: float, cpu: float, note: str = "") -> None:
    """Print one row of the table."""
    print(f"{name:44s} {wall:9.3f} {cpu:9.3f}  {note}", flush=True)


def grid_starts(count: int) -> tuple[list[tuple[float, ...]], float]:
    """(`count` starts of scipy's grid at random, what share of the whole grid each stands for)."""
    grid = list(itertools.product(range(0, 30, 5), range(0, 30, 5), np.arange(-1, 1.5, 0.5),
                                  np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5)))  # fmt: skip
    picked = np.random.default_rng(0).choice(len(grid), count, replace=False)
    return [grid[i] for i in picked], len(grid) / count


def global_fits(huber: Result, table: Table, scipy_starts: int) -> None:
    """One fit from many starts: ours by default, scipy's grid, ours from the same box."""
    v, y = huber.problem.variables, huber.problem.target
    wall, cpu = min(timed(lambda: fit(table, "chinchilla"))[1:] for _ in range(10))
    note = f"reached {huber.reached:.0%} of random starts"
    line("global Huber fit, default call", wall, cpu, note)
    starts, scale = grid_starts(scipy_starts)
    both = scipy_objective(v["params"], v["tokens"], y, np.ones(len(y)))

    def grid_fits() -> list[float]:
        return [optimize.minimize(both, x, jac=True, method="L-BFGS-B").fun for x in starts]

    values, wall, cpu = timed(grid_fits)
    good = np.mean(np.array(values) < BEST * 1.0001)
    name = f"scipy L-BFGS-B, {round(len(starts) * scale)} starts (scaled)"
    line(name, wall * scale, cpu * scale, f"{good:.1%} reach the optimum")

    problem = build_problem(huber.law, v, y, Loss())
    random, _ = choose(screen(problem), 400, seed=7)
    box = np.random.default_rng(0).uniform([0, 0, -1, 0, 0], [25, 25, 1, 2, 2], size=(300, 5))
    raw = np.zeros_like(box)
    for column, parameter in enumerate(("A", "B", "E", "alpha", "beta")):
        raw[:, problem.names.index(parameter)] = box[:, column]
    for name, vectors in (
        ("ours, 300 random starts (with compilation)", random[100:]),
        ("ours, 300 starts in the box of scipy's grid", raw),
    ):
        ends, wall, cpu = timed(lambda at=vectors: solve(problem, at))
        line(name, wall, cpu, f"{np.mean(ends.values < BEST * 1.0001):.1%} reach the optimum")


def bootstraps(huber: Result, table: Table, resamples: int, scipy_resamples: int) -> None:
    """Refits of resamples: ours searched globally, scipy's from one start."""
    for loss, name in ((Loss("lsq"), "squared"), (Loss(), "Huber 1e-3")):
        result = fit(table, "chinchilla", loss)
        bootstrap(result, 300)
        draws, wall, cpu = timed(lambda r=result: bootstrap(r, resamples))
        note = f"{draws.converged:.2%} converged"
        line(f"{resamples} bootstraps, global, {name}", wall, cpu, note)
    v, y = huber.problem.variables, huber.problem.target
    rng = np.random.default_rng(0)

    def resampled() -> None:
        for _ in range(scipy_resamples):
            counts = np.bincount(rng.choice(len(y), len(y)), minlength=len(y)).astype(float)
            both = scipy_objective(v["params"], v["tokens"], y, counts)
            optimize.minimize(both, HOFFMANN, jac=True, method="BFGS")

    _, wall, cpu = timed(resampled)
    scale = resamples / scipy_resamples
    line("scipy BFGS, one start each, Huber (scaled)", wall * scale, cpu * scale)


def many_rows(rows: int, laws: list[str], resamples: int) -> None:
    """Long tables of each law, 1 % noise: the first fit (with compilation), again, its bootstrap."""
    sys.path.insert(0, str(ROOT / "tests" / "laws"))
    from catalogue_designs import design, truth

    for name in laws:
        law = get_law(name)
        columns, form = design(law, rows), (law.members or (law,))[0]
        noise = np.exp(0.01 * np.random.default_rng(0).normal(size=rows))
        columns[law.target.name] = form.evaluate(truth(form), columns) * noise
        for label in ("first", "again"):
            result, wall, cpu = timed(lambda c=columns, of=law: fit(c, of))
            line(f"{name}, {rows} rows, {label} fit", wall, cpu)
        draws, wall, cpu = timed(lambda r=result: bootstrap(r, resamples))
        note = f"{draws.converged:.2%} converged"
        line(f"{name}, {resamples} bootstraps (with compilation)", wall, cpu, note)


def memory(fits: int) -> None:
    """Resident memory while one process fits tables of 20 to 400 rows, each of another size."""
    table = besiroglu.table()
    columns = {k: table.columns[k] for k in ("params", "flops", "loss")}
    columns["tokens"] = columns["flops"] / 6 / columns["params"]
    rng = np.random.default_rng(0)
    for count in range(fits + 1):
        if count % max(fits // 10, 1) == 0:
            pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
            megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            print(f"after {count:5d} fits {megabytes:7.0f} MiB, {time.process_time():7.1f} CPU s")
        rows = rng.choice(len(table), rng.integers(20, 400))
        fit({k: v[rows] for k, v in columns.items()}, "chinchilla")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scipy-starts", type=int, default=40)
    parser.add_argument("--scipy-resamples", type=int, default=40)
    parser.add_argument("--resamples", type=int, default=4000)
    parser.add_argument("--rows", type=int, help="only tables of so many rows, of --laws")
    parser.add_argument("--fits", type=int, help="only memory over so many fits")
    parser.add_argument("--laws", default="chinchilla,m4")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    options = parser.parse_args()
    if options.device != "cpu":
        use_device(options.device)
    if options.rows:
        laws = list(LAWS) if options.laws == "all" else options.laws.split(",")
        many_rows(options.rows, laws, options.resamples)
        return
    if options.fits:
        memory(options.fits)
        return
    table = besiroglu.table()
    huber = fit(table, "chinchilla")
    print(f"{'':44s} {'wall s':>9s} {'CPU s':>9s}")
    global_fits(huber, table, options.scipy_starts)
    bootstraps(huber, table, options.resamples, options.scipy_resamples)


if __name__ == "__main__":
    main()
