"""Speed of the law fits beside scipy doing the same work, in one run.

    nice python scripts/bench/laws_speed.py [--scipy-starts=40] [--scipy-resamples=40] [--device=gpu]

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

from scaling.laws import Loss, bootstrap, fit, use_device  # noqa: E402
from scaling.laws.problem import build_problem  # noqa: E402
from scaling.laws.screen import choose, screen  # noqa: E402
from scaling.laws.solver import solve  # noqa: E402

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


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scipy-starts", type=int, default=40)
    parser.add_argument("--scipy-resamples", type=int, default=40)
    parser.add_argument("--resamples", type=int, default=4000)
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    options = parser.parse_args()
    if options.device != "cpu":
        use_device(options.device)
    table = besiroglu.table()
    huber = fit(table, "chinchilla")
    v, y = huber.problem.variables, huber.problem.target
    n, d = v["params"], v["tokens"]
    print(f"{'':44s} {'wall s':>9s} {'CPU s':>9s}")

    def line(name: str, wall: float, cpu: float, note: str = "") -> None:
        print(f"{name:44s} {wall:9.3f} {cpu:9.3f}  {note}", flush=True)

    runs = [timed(lambda: fit(table, "chinchilla"))[1:] for _ in range(10)]
    wall, cpu = min(runs)
    line(
        "global Huber fit, default call", wall, cpu, f"reached {huber.reached:.0%} of random starts"
    )
    grid = list(itertools.product(range(0, 30, 5), range(0, 30, 5), np.arange(-1, 1.5, 0.5),
                                  np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5)))  # fmt: skip
    rng = np.random.default_rng(0)
    picked = [grid[i] for i in rng.choice(len(grid), options.scipy_starts, replace=False)]
    both = scipy_objective(n, d, y, np.ones(len(y)))

    def grid_fits() -> list[float]:
        return [optimize.minimize(both, x, jac=True, method="L-BFGS-B").fun for x in picked]

    values, wall, cpu = timed(grid_fits)
    scale = len(grid) / len(picked)
    good = np.mean(np.array(values) < BEST * 1.0001)
    line(
        f"scipy L-BFGS-B, {len(grid)} starts (scaled)",
        wall * scale,
        cpu * scale,
        f"{good:.1%} reach the optimum",
    )

    problem = build_problem(huber.law, v, y, Loss())
    random, _ = choose(screen(problem), 400, seed=7)
    found, wall, cpu = timed(lambda: solve(problem, random[100:]))
    share = np.mean(found.values < BEST * 1.0001)
    line("ours, 300 random starts (with compilation)", wall, cpu, f"{share:.1%} reach the optimum")
    box = rng.uniform([0, 0, -1, 0, 0], [25, 25, 1, 2, 2], size=(300, 5))
    order = [("A", 0), ("B", 1), ("E", 2), ("alpha", 3), ("beta", 4)]
    raw = np.zeros_like(box)
    for name, column in order:
        raw[:, huber.problem.names.index(name)] = box[:, column]
    found, wall, cpu = timed(lambda: solve(problem, raw))
    share = np.mean(found.values < BEST * 1.0001)
    line("ours, 300 starts in the box of scipy's grid", wall, cpu, f"{share:.1%} reach the optimum")

    for loss, name in ((Loss("lsq"), "squared"), (Loss(), "Huber 1e-3")):
        result = fit(table, "chinchilla", loss)
        bootstrap(result, 300)
        draws, wall, cpu = timed(lambda r=result: bootstrap(r, options.resamples))
        line(
            f"{options.resamples} bootstraps, global, {name}",
            wall,
            cpu,
            f"{draws.converged:.2%} converged",
        )

    def resampled() -> None:
        for _ in range(options.scipy_resamples):
            counts = np.bincount(rng.choice(len(y), len(y)), minlength=len(y)).astype(float)
            optimize.minimize(scipy_objective(n, d, y, counts), HOFFMANN, jac=True, method="BFGS")

    _, wall, cpu = timed(resampled)
    scale = options.resamples / options.scipy_resamples
    line("scipy BFGS, one start each, Huber (scaled)", wall * scale, cpu * scale)


if __name__ == "__main__":
    main()
