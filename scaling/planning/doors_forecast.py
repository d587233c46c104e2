"""Doors of `python -m scaling.plan` for the loop of forecast and grade.

--config=X --forecast=FIT --workdir=RUN     write RUN/forecast.json
--grade=RUN                                 grade a run that has ended (again)
--scoreboard=DIR                            calibration over all graded runs below DIR
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from scaling import configs
from scaling.cli import Option
from scaling.configs import ConfigError
from scaling.data.errors import DataError

OPTIONS = (
    Option("forecast", "Write RUN/forecast.json from a fit.json, a run table or a sweep.", "FROM"),
    Option("law", "The law to fit where --forecast is no fit.json.", "NAME"),
    Option("at", "Variables of the law that the config does not tell.", "NAME=VALUE,..."),
    Option("count", "Which parameters the table counts: total, non_embedding, active.", "COUNT"),
    Option("flops", "Which FLOPs the table counts, for laws of them: six_nd, exact.", "COUNT"),
    Option("plan", "Memory and step time from a plan of this config.", "PLAN_JSON"),
    Option("price", "Money per chip-hour.", "USD"),
    Option("grade", "Grade a run that has ended against its forecast, again.", "RUN"),
    Option("scoreboard", "Calibration over all graded runs below a directory.", "DIR"),
)


def run_forecast(values: Mapping[str, Any], overrides: Sequence[str]) -> int:
    """Forecasts a run, before it starts; returns exit code 0.

    Args:
      values: flags by name, of `cli.read` with OPTIONS, `config` and `workdir`.
      overrides: of the config.

    Raises:
      ConfigError: a flag, the config, its data, the law or its table cannot be used.
    """
    if "config" not in values:
        raise ConfigError("--config", "is required with --forecast", "write --config=FILE[:ARG]")
    at = _numbers(values.get("at", ""))
    price = _price(values.get("price"))
    # Before JAX is imported. Fits run on the CPU: a forecast must not grab an accelerator's memory.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    config = configs.load_resolved(values["config"], overrides)
    workdir = pathlib.Path(values.get("workdir") or f"runs/{config.name}")  # as scaling.main
    from scaling.planning import forecast, law_fit, target
    from scaling.planning.plan_record import PlanRecord

    plan = PlanRecord.read(values["plan"]) if "plan" in values else None
    law = law_fit.load(values["forecast"], values.get("law"))
    try:
        counts = values.get("count", law.count), values.get("flops", law.flops)
        run = target.describe(config, *counts)
    except DataError as error:
        raise ConfigError("data", str(error)) from error
    content = forecast.build(run, law, at, plan, price)
    path = forecast.write(workdir, content)
    print(forecast.describe(content))
    print(f"wrote {path}; start the run there and it grades itself")
    return 0


def run_grade(values: Mapping[str, Any]) -> int:
    """Grades a run directory (again); returns 0.

    Raises:
      ConfigError: it holds nothing to grade.
    """
    from scaling.track import grade

    folder = _folder("--grade", values["grade"])
    try:
        found = grade.regrade(folder)
    except grade.GradeError as error:
        raise ConfigError("--grade", str(error)) from error
    print(grade.describe(found))
    return 0


def run_scoreboard(values: Mapping[str, Any]) -> int:
    """Scores all graded runs below a directory; writes scoreboard.json and pictures there.

    Raises:
      ConfigError: it holds no graded run, or cannot be written to.
    """
    from scaling.planning import scoreboard

    folder = _folder("--scoreboard", values["scoreboard"])
    try:
        record = scoreboard.score(scoreboard.collect(folder))
        scoreboard.write(record, folder)
    except (scoreboard.ScoreboardError, OSError) as error:
        raise ConfigError("--scoreboard", str(error)) from error
    print(scoreboard.describe(record))
    try:
        from scaling.planning.scoreboard_figure import draw

        pictures = draw(record, folder)
    except ImportError as error:
        print(f"no picture: {error}; pip install 'scaling[fit]'")
        pictures = []
    print("wrote " + ", ".join(str(path) for path in (folder / scoreboard.NAME, *pictures)))
    return 0


def _folder(flag: str, text: str) -> pathlib.Path:
    path = pathlib.Path(text)
    if not path.is_dir():
        raise ConfigError(flag, f"{text} is no directory", "give a directory that holds runs")
    return path


def _numbers(text: str) -> dict[str, float]:
    """`a=1,b=2e9` as numbers."""
    found = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        number = _number(value)
        if not equals or not name or number is None:
            raise ConfigError("--at", f"{part!r} is not NAME=VALUE", "write --at=unique_tokens=1e9")
        found[name.strip()] = number
    return found


def _price(text: str | None) -> float | None:
    number = None if text is None else _number(text)
    if text is not None and (number is None or number < 0):
        raise ConfigError("--price", f"{text!r} is no amount of money", "write --price=1.20")
    return number


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
