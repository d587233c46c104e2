"""The law behind a forecast: fitted to a sweep or a table, or repeated from a fit.json.

A fit.json holds parameters and not the resamples that an interval needs, so its own command line is
done again on its table, and must come to what the file says.
"""

import dataclasses
import hashlib
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.configs import ConfigError
from scaling.laws.arguments import parse
from scaling.laws.command import fitted
from scaling.laws.fitting import Result
from scaling.laws.law import LawError
from scaling.laws.progress import step
from scaling.laws.resample import Draws, bootstrap
from scaling.track import files

RESAMPLES = 1000
DEFAULT_LAW = "combined"  # nearest on public tables, see docs/reference/forecasts.md
SAME_FIT = 1e-3  # relative difference of objectives that another version of a library may make


@dataclasses.dataclass(frozen=True, eq=False)
class LawFit:
    """A fitted law with its resamples.

    Attributes:
      runs: what was fitted: a table, or a directory of runs.
      fit_json: the fit.json it was repeated from, if any.
      count: which parameters the table's `params` are, as far as its command says.
      flops: the same of `flops`.
    """

    result: Result
    draws: Draws
    runs: pathlib.Path
    fit_json: pathlib.Path | None
    count: str
    flops: str

    @property
    def table_sha256(self) -> str:
        """SHA-256 of the numbers that were fitted: columns of the law, target, weights, clusters."""
        problem = self.result.problem
        columns = {**problem.variables, "target": problem.target, "weights": problem.weights}
        state = hashlib.sha256()
        for name in sorted(columns):
            state.update(name.encode() + np.ascontiguousarray(columns[name], "<f8").tobytes())
        state.update(np.ascontiguousarray(problem.clusters, "<i8").tobytes())
        return state.hexdigest()

    def record(self) -> dict[str, Any]:
        """For forecast.json: which law, which data, how it was fitted."""
        result, draws = self.result, self.draws
        return {
            "name": result.law.name,
            "equation": result.law.equation,
            "parameters": result.parameters,
            "points": result.points,
            "excluded": len(result.excluded),
            "lean": result.problem.lean,
            "loss": {k: v for k, v in dataclasses.asdict(result.loss).items() if v != np.inf},
            "runs": str(self.runs),
            "table_sha256": self.table_sha256,
            "fit_json": str(self.fit_json) if self.fit_json else None,
            "fit_json_sha256": files.sha256(self.fit_json) if self.fit_json else None,
            "ranges": {name: list(ends) for name, ends in result.ranges.items()},
            "bootstrap": {
                "resamples": len(draws),
                "kind": draws.kind,
                "seed": draws.seed,
                "converged": draws.converged,
            },
            "method": (
                "value: the fitted curve. Intervals are for one new run, not for the curve: each "
                "of the bootstrap's refits predicts, a residual of the fit (centred, inflated by "
                "sqrt(n / (n - p)); of runs of like compute where `lean`, the power of compute in "
                "the weights, is above 0) drawn with replacement is added, and percentiles are taken, "
                "expanded for n - p degrees of freedom (Hesterberg 2015). They carry the "
                "uncertainty of the parameters, the spread of runs and, beyond the data, the error "
                "of the law's form: see `form`, and `public` for how such intervals fared."
            ),
        }


def load(source: str, law: str | None) -> LawFit:
    """Fits what a forecast starts from.

    Args:
      source: a fit.json or the folder of one; or a run table or directory of runs, with `law`.
      law: a law as `get_law` takes it; None for `DEFAULT_LAW`, or that of a fit.json.

    Raises:
      ConfigError: there is no such thing, its data or law cannot be used, or the table changed.
    """
    path = pathlib.Path(source)
    if not path.exists():
        what = f"{source} does not exist"
        remedy = "give a fit.json, a run table, or a directory of runs"
        raise ConfigError("--forecast", what, remedy)
    if path.is_dir() and (path / "fit.json").exists():
        path = path / "fit.json"
    try:
        if path.name == "fit.json":
            return _repeat(path, law)
        return _fit(["--runs", str(path), "--law", law or DEFAULT_LAW, "--out", "."], None)
    except LawError as error:
        raise ConfigError(
            "--forecast", f"{source}: {error}", "try the fit alone: python -m scaling.fit --help"
        ) from error


def _fit(arguments: Sequence[str], fit_json: pathlib.Path | None) -> LawFit:
    try:
        options = parse(arguments)
    except ConfigError as error:
        raise LawError(str(error)) from error
    with step(f"fit of {options.law}"):
        _, result = fitted(options)
    if result.problem.freedom == 0:
        raise LawError("every parameter of the fit is fixed, so no interval can be drawn")
    resamples = options.bootstrap or RESAMPLES
    with step(f"bootstrap of {resamples:,} resamples"):
        draws = bootstrap(result, resamples, options.resample, seed=options.seed)
    runs = pathlib.Path(options.runs)
    return LawFit(result, draws, runs, fit_json, options.count, options.flops)


def _repeat(path: pathlib.Path, law: str | None) -> LawFit:
    """The fit of a fit.json, done again on its table."""
    try:
        record = files.read_json(path)
        words = shlex.split(record["command"])
        objective, points, name = record["objective"], record["points"], record["law"]
    except (ValueError, KeyError, TypeError) as error:
        what = f"{path} is not a fit.json ({error!r})"
        raise ConfigError("--forecast", what, "make it with python -m scaling.fit") from error
    again = _fit(words[words.index("scaling.fit") + 1 :], path)
    result = again.result
    if law not in (None, name, result.law.name):
        raise ConfigError("--law", f"is {law}, but {path} fits {name}", "leave --law out")
    apart = abs(result.objective - objective) > SAME_FIT * abs(objective) + 1e-12
    if apart or result.points != points:
        what = (
            f"{again.runs} is not what {path} was fitted to any more (objective "
            f"{result.objective:.6g} on {result.points} points, there {objective:.6g} on {points})"
        )
        raise ConfigError("--forecast", what, f"fit again: {record['command']}")
    return again
