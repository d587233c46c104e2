"""What a sweep file declares: a base config and a design, which is a lazy list of points.

    def get_sweep(arg: str = "") -> Sweep:
        return Sweep(
            base="experiments/quickstart.py",
            design=product(axis("optim.learning_rate", (0.01, 0.03)), seeds(3)),
        )

A point is a set of settings (dotted config keys) and the axes under which its run appears in the
table. Combinators read left to right: what stands further right sees the settings of what stands
further left, so `product(axis("data.seq_len", ...), isoflop(...))` solves tokens for each length.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from scaling import configs
from scaling.configs import ConfigError
from scaling.configs.files import import_file, split_spec

Base = Mapping[str, Any]  # nested plain dictionaries, as a config file states them
Settings = Mapping[str, Any]  # {"optim.learning_rate": 0.01}

MANY = 1000  # cells that nobody starts by accident


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a design: what it sets, and what it is called in the table."""

    settings: Settings
    axes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Design:
    """A lazy list of points.

    Attributes:
      size: how many points there are; an upper bound after `filter_`.
      points: the points, given the base config with the settings that apply already.
    """

    size: int
    points: Callable[[Base], Iterator[Point]]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `get_sweep` returns.

    Attributes:
      base: a config as its file states it, or "FILE[:ARG]" of one.
      design: how the cells differ from it.
      name: of the sweep; the file's own name where it is empty.
      optimum: params that are expected to be best at a budget (FLOPs), for the warnings about
        isoFLOP grids; None is Chinchilla's rule. See `sizes`.
    """

    base: Any
    design: Design
    name: str = ""
    optimum: Callable[[float], float] | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      id: `configs.fingerprint` of the config: what changes the result, and nothing else.
      config: resolved and validated.
      axes: its columns in the table.
    """

    id: str
    config: Any
    axes: Mapping[str, Any]


def axis(key: str, values: Iterable[Any], name: str = "") -> Design:
    """One point for each value of a config key.

    Args:
      key: dotted, such as "optim.learning_rate".
      values: of the key's own type.
      name: the column; by default the last part of the key.
    """
    column, listed = name or key.rpartition(".")[2], tuple(values)
    return settings([{key: value} for value in listed], [{column: value} for value in listed])


def settings(
    choices: Sequence[Settings], axes: Sequence[Mapping[str, Any]] | None = None
) -> Design:
    """One point for each set of settings, in the order given.

    Args:
      choices: dotted keys and their values.
      axes: columns of each; by default the settings themselves, under the last part of each key.
    """
    columns = axes or [
        {key.rpartition(".")[2]: value for key, value in one.items()} for one in choices
    ]
    listed = [Point(dict(one), dict(names)) for one, names in zip(choices, columns, strict=True)]
    return Design(len(listed), lambda base: iter(listed))


def seeds(count: int, first: int = 0) -> Design:
    """The experiment's seed from `first` on."""
    return axis("seed", range(first, first + count))


def product(*designs: Design) -> Design:
    """Every combination; the last varies fastest."""

    def points(base: Base, rest: tuple[Design, ...] = designs) -> Iterator[Point]:
        if not rest:
            yield Point({}, {})
            return
        for left in rest[0].points(base):
            for right in points(with_settings(base, left.settings), rest[1:]):
                yield _joined(left, right)

    size = 1
    for design in designs:
        size *= design.size
    return Design(size, points)


def chain(*designs: Design) -> Design:
    """The points of one after those of the other."""
    return Design(
        sum(design.size for design in designs),
        lambda base: itertools.chain.from_iterable(design.points(base) for design in designs),
    )


def zip_(*designs: Design) -> Design:
    """First with first, second with second.

    Raises:
      ConfigError: they have different lengths (when the points are asked for).
    """

    def points(base: Base) -> Iterator[Point]:
        listed = [list(design.points(base)) for design in designs]
        if len({len(one) for one in listed}) > 1:
            raise ConfigError(
                "zip_", f"designs of {[len(one) for one in listed]} points cannot be paired",
                "give them equally many points, or use product",
            )  # fmt: skip
        for together in zip(*listed, strict=True):
            joined = together[0]
            for other in together[1:]:
                joined = _joined(joined, other)
            yield joined

    return Design(min((design.size for design in designs), default=0), points)


def filter_(design: Design, keep: Callable[[Any], bool]) -> Design:
    """The points whose resolved config `keep` accepts."""

    def points(base: Base) -> Iterator[Point]:
        for point in design.points(base):
            if keep(configs.resolve(with_settings(base, point.settings), check=False)):
                yield point

    return Design(design.size, points)


def _joined(left: Point, right: Point) -> Point:
    both = sorted(set(left.settings) & set(right.settings))
    if both:
        raise ConfigError(
            both[0], "is set by two parts of the design", "leave it out of one of them"
        )
    clash = sorted(set(left.axes) & set(right.axes))
    if clash:
        raise ConfigError(
            "design", f"two axes are called {clash[0]!r}", "give one of them another name="
        )
    return Point({**left.settings, **right.settings}, {**left.axes, **right.axes})


def with_settings(base: Base, changes: Settings) -> dict[str, Any]:
    """A copy of nested dictionaries with dotted keys set; groups on the way are made."""
    return configs.with_values(base, changes)


def load_sweep(spec: str) -> Sweep:
    """The sweep that a file declares, its base as plain dictionaries and its name filled in.

    Args:
      spec: "experiments/sweeps/isoflop_tiny.py", with ":ARG" for its `get_sweep`.

    Raises:
      ConfigError: the file cannot be read, fails, or declares no sweep.
    """
    try:
        path, argument = split_spec(spec)
        module = import_file(path)
    except ConfigError as error:
        raise ConfigError(
            error.key.replace("--config", "--sweep"), error.reason, error.remedy
        ) from error
    get_sweep = getattr(module, "get_sweep", None)
    if get_sweep is None:
        raise ConfigError(
            "--sweep", f"{path} has no function get_sweep", "define `def get_sweep(arg='')`"
        )
    try:
        sweep = get_sweep(argument) if argument else get_sweep()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            "--sweep", f"{path}: {type(error).__name__}: {error}", "correct the file"
        ) from error
    if not isinstance(sweep, Sweep):
        raise ConfigError(
            "--sweep", f"get_sweep of {path} returned {type(sweep).__name__}", "return a Sweep"
        )
    base = configs.load(sweep.base) if isinstance(sweep.base, str) else sweep.base
    name = sweep.name or path.stem + (f"-{argument}" if argument else "")
    return dataclasses.replace(sweep, base=configs.plain(base), name=re.sub(r"[^\w.-]+", "-", name))


def cells(sweep: Sweep, *, many: int | None = MANY) -> tuple[list[Cell], list[str]]:
    """All cells, resolved and validated; and what is worth telling about them.

    Args:
      sweep: of `load_sweep`.
      many: refuse more cells than this; None for no limit.

    Raises:
      ConfigError: there are none or too many, or one cannot run; names the cell and the key.
    """
    found: dict[str, Cell] = {}
    repeats = 0
    # Points are cheap and configs are not, so that too many are refused at once.
    listed = list(
        itertools.islice(sweep.design.points(sweep.base), None if many is None else many + 1)
    )
    for number, point in enumerate(listed, 1):
        if many is not None and len(listed) > many:
            raise ConfigError(
                "--sweep", f"the design has up to {sweep.design.size:,} cells, more than {many:,}",
                "make it smaller, or say --yes",
            )  # fmt: skip
        cell = _cell(sweep, number, point)
        repeats += cell.id in found
        found.setdefault(cell.id, cell)
    if not found:
        raise ConfigError(
            "--sweep", "the design has no cells",
            "give every axis a value, and see what filter_ keeps",
        )  # fmt: skip
    notes = [f"{repeats} points of the design repeat another exactly and are run once"]
    return list(found.values()), notes if repeats else []


def _cell(sweep: Sweep, number: int, point: Point) -> Cell:
    try:
        config = configs.resolve(with_settings(sweep.base, point.settings))
    except ConfigError as error:
        where = f"cell {number} ({label(point.axes)})"
        raise ConfigError(error.key, f"{error.reason}, in {where}", error.remedy) from error
    name = configs.fingerprint(config)
    config = dataclasses.replace(config, name=f"{sweep.name}-{name[:8]}")
    return Cell(name, config, point.axes)


def label(axes: Mapping[str, Any]) -> str:
    """The axes in one line: "learning_rate=0.01, seed=2"."""
    shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in axes.items()}
    return ", ".join(f"{k}={v}" for k, v in shown.items())
