"""What `python -m scaling.plan` does with forecasts: write one, grade one, score many."""

import pathlib
import sys
from collections.abc import Callable, Sequence

from scaling import configs
from scaling.configs import ConfigError
from scaling.planning import scoreboard as scoring
from scaling.planning.arguments import Values
from scaling.planning.quantities import PlanRecord
from scaling.track import files
from scaling.track import grade as grading


def forecast(values: Values, overrides: Sequence[str]) -> int:
    """Forecasts a run before it starts: writes RUN/forecast.json."""
    config = configs.load_resolved(values["config"], overrides)
    workdir = pathlib.Path(values.get("workdir") or f"runs/{config.name}")  # as scaling.main
    # These import JAX, which the other jobs do without.
    from scaling.data import DataError
    from scaling.laws import progress
    from scaling.planning import forecast as forecasting
    from scaling.planning import law_fit, target

    given = PlanRecord.read(values["plan"]) if "plan" in values else None
    try:
        with progress.shown(sys.stderr):
            law = law_fit.load(values["forecast"], values.get("law"))
            counts = values.get("count", law.count), values.get("flops", law.flops)
            with progress.step("size and cost of the run"):
                run = target.describe(config, *counts)
    except DataError as error:
        raise ConfigError("data", str(error)) from error
    factor = 1.0
    if "graded" in values:
        factor = scoring.score(_folder(values, "graded"), "--graded")["form"]["factor"]
    content = forecasting.build(run, law, values.get("at", {}), given, values.get("price"), factor)
    path = forecasting.write(workdir, content)
    print(forecasting.describe(content))
    print(f"wrote {path}; start the run there and it grades itself")
    return 0


def grade(values: Values, _: Sequence[str]) -> int:
    """Grades a run directory again."""
    print(grading.describe(grading.regrade(_folder(values, "grade"))))
    return 0


def scoreboard(values: Values, _: Sequence[str]) -> int:
    """Scores all graded runs below a directory; writes scoreboard.json there."""
    folder = _folder(values, "scoreboard")
    record = scoring.score(folder)
    try:
        files.write_json(folder / scoring.NAME, record)
    except OSError as error:
        raise ConfigError("--scoreboard", str(error)) from error
    print(scoring.describe(record))
    print(f"wrote {folder / scoring.NAME}")
    return 0


def _folder(values: Values, flag: str) -> pathlib.Path:
    path = pathlib.Path(values[flag])
    if not path.is_dir():
        what = f"{path} is not a directory"
        raise ConfigError(f"--{flag}", what, "give a directory that holds runs")
    return path


JOBS: dict[str, Callable[[Values, Sequence[str]], int]] = {
    "forecast": forecast,
    "grade": grade,
    "scoreboard": scoreboard,
}
