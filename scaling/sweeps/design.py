"""What a sweep file declares: a base config and a design, which is a lazy list of points.

    def get_sweep(arg: str = "") -> Sweep:
        return Sweep(
            base="experiments/quickstart.py",
            design=product(axis("optim.learning_rate", (0.01, 0.03)), seeds(3)),
        )

A point is a set of settings (dotted config keys) and the axes under which its run appears in the
table. Combinators read left to right: a design further right sees the settings of those further
left, so `product(axis("data.seq_len", ...), isoflop(...))` solves tokens for each length.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from scaling import configs
from scaling.configs import ConfigError
from scaling.configs.files import import_file, split_spec

if TYPE_CHECKING:
    from scaling.experiment import Experiment

Base = Mapping[str, Any]  # nested plain dictionaries, as a config file states them
Settings = Mapping[str, Any]  # {"optim.learning_rate": 0.01}
Declared = TypeVar("Declared")

MANY = 1000  # a design of more cells needs --yes


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a design: what it sets, and what it is called in the table."""

    settings: Settings
    axes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Design:
    """A lazy list of points.

    Attributes:
      size: number of points; an upper bound after `filter_`.
      points: the points, given the base config with the settings that apply already.
    """

    size: int
    points: Callable[[Base], Iterator[Point]]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `get_sweep` returns.

    Attributes:
      base: a config as its file states it, or "FILE[:ARG]" of one.
      name: of the sweep; the file's own name where it is empty.
      optimum: params that are expected to be best at a budget (FLOPs), for the warnings about
        isoFLOP grids; None is Chinchilla's rule. See `budgets`.
    """

    base: Any
    design: Design
    name: str = ""
    optimum: Callable[[float], float] | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      id: `configs.fingerprint` of the config: everything that changes the result, nothing else.
      axes: its columns in the table.
    """

    id: str
    config: "Experiment"
    axes: Mapping[str, Any]


# --- designs ---------------------------------------------------------------------------------


def axis(key: str, values: Iterable[Any], name: str = "") -> Design:
    """One point for each value of a config key.

    Args:
      key: dotted, such as "optim.learning_rate".
      values: of the key's own type.
      name: the column; by default the last part of the key.
    """
    column, listed = name or _leaf(key), tuple(values)
    return settings([{key: value} for value in listed], [{column: value} for value in listed])


def settings(
    choices: Sequence[Settings], axes: Sequence[Mapping[str, Any]] | None = None
) -> Design:
    """One point for each set of settings, in the order given.

    Args:
      choices: dotted keys and their values.
      axes: columns of each; by default the settings themselves, under the last part of each key.
    """
    columns = axes or [{_leaf(key): value for key, value in choice.items()} for choice in choices]
    points = [
        Point(dict(choice), dict(names)) for choice, names in zip(choices, columns, strict=True)
    ]
    return Design(len(points), lambda base: iter(points))


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
            for right in points(configs.with_values(base, left.settings), rest[1:]):
                yield _joined(left, right)

    return Design(math.prod(design.size for design in designs), points)


def chain(*designs: Design) -> Design:
    """The points of each design after those of the one before."""
    return Design(
        sum(design.size for design in designs),
        lambda base: itertools.chain.from_iterable(design.points(base) for design in designs),
    )


def zip_(*designs: Design) -> Design:
    """First with first, second with second; ConfigError if they have different lengths."""

    def points(base: Base) -> Iterator[Point]:
        columns = [list(design.points(base)) for design in designs]
        lengths = [len(column) for column in columns]
        if len(set(lengths)) > 1:
            what = f"designs of {lengths} points cannot be paired"
            raise ConfigError("zip_", what, "give them equally many points, or use product")
        for row in zip(*columns, strict=True):
            yield functools.reduce(_joined, row)

    return Design(min((design.size for design in designs), default=0), points)


def filter_(design: Design, keep: Callable[["Experiment"], bool]) -> Design:
    """The points whose resolved config `keep` accepts."""

    def points(base: Base) -> Iterator[Point]:
        for point in design.points(base):
            if keep(configs.resolve(configs.with_values(base, point.settings), check=False)):
                yield point

    return Design(design.size, points)


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _joined(left: Point, right: Point) -> Point:
    for key in sorted(left.settings.keys() & right.settings.keys()):
        raise ConfigError(key, "is set by two parts of the design", "leave it out of one of them")
    for name in sorted(left.axes.keys() & right.axes.keys()):
        raise ConfigError("design", f"two axes are called {name!r}", "give one another name=")
    return Point({**left.settings, **right.settings}, {**left.axes, **right.axes})


# --- cells -----------------------------------------------------------------------------------


def make_cell(base: Base, point: Point, where: str) -> Cell:
    """The cell of a point, resolved and checked; ConfigError, which names `where`, if it cannot run."""
    try:
        config = configs.resolve(configs.with_values(base, point.settings))
    except ConfigError as error:
        reason = f"{error.reason}, in {where} ({label(point.axes)})"
        raise ConfigError(error.key, reason, error.remedy) from error
    return Cell(configs.fingerprint(config), config, point.axes)


def plain_base(base: object) -> dict[str, Any]:
    """The base of a sweep or search, or the file that it names, as nested plain dictionaries."""
    return configs.plain(configs.load(base) if isinstance(base, str) else base)


def cells(sweep: Sweep, *, many: int | None = MANY) -> tuple[list[Cell], list[str]]:
    """All cells, resolved and checked; and notes about them.

    Args:
      many: refuse more cells than this; None for no limit.

    Raises:
      ConfigError: there are none or too many, or one cannot run; names the cell and the key.
    """
    # Points are cheap and configs are not: too many points are refused before any is resolved.
    limit = None if many is None else many + 1
    points = list(itertools.islice(sweep.design.points(sweep.base), limit))
    if many is not None and len(points) > many:
        what = f"the design has up to {sweep.design.size:,} cells, more than {many:,}"
        raise ConfigError("--sweep", what, "make it smaller, or say --yes")
    if not points:
        remedy = "give every axis a value, and see what filter_ keeps"
        raise ConfigError("--sweep", "the design has no cells", remedy)
    made: dict[str, Cell] = {}
    for number, point in enumerate(points, 1):
        cell = make_cell(sweep.base, point, f"cell {number}")
        config = dataclasses.replace(cell.config, name=f"{sweep.name}-{cell.id[:8]}")
        made.setdefault(cell.id, dataclasses.replace(cell, config=config))
    repeats = len(points) - len(made)
    note = f"{repeats} points of the design repeat another exactly and are run once"
    return list(made.values()), [note] if repeats else []


def label(axes: Mapping[str, Any]) -> str:
    """The axes in one line: "learning_rate=0.01, seed=2"."""
    return ", ".join(f"{key}={show(value)}" for key, value in axes.items())


def show(value: Any) -> str:
    """A value of an axis, a float with 4 digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- files -----------------------------------------------------------------------------------


def load_declared(spec: str, flag: str, kind: type[Declared]) -> tuple[Declared, str]:
    """What `get_sweep` or `get_search` of a file returns, and a name for it.

    `spec` is "experiments/sweeps/isoflop_tiny.py", with ":ARG" for the function's argument, `flag`
    "--sweep" or "--search".

    Raises:
      ConfigError: the file cannot be read, fails, or declares another `kind`.
    """
    function = f"get_{flag.removeprefix('--')}"
    try:
        path, argument = split_spec(spec)
        module = import_file(path)
    except ConfigError as error:
        key = error.key.replace("--config", flag)
        raise ConfigError(key, error.reason, error.remedy) from error
    declare = getattr(module, function, None)
    if declare is None:
        what = f"{path} has no function {function}"
        raise ConfigError(flag, what, f"define `def {function}(arg='')`")
    try:
        declared = declare(argument) if argument else declare()
    except ConfigError:
        raise
    except Exception as error:
        what = f"{path}: {type(error).__name__}: {error}"
        raise ConfigError(flag, what, "correct the file") from error
    if not isinstance(declared, kind):
        what = f"{function} of {path} returned {type(declared).__name__}"
        raise ConfigError(flag, what, f"return a {kind.__name__}")
    return declared, path.stem + (f"-{argument}" if argument else "")


def load_sweep(spec: str) -> Sweep:
    """The sweep that a file declares, its base as plain dictionaries and its name filled in."""
    sweep, name = load_declared(spec, "--sweep", Sweep)
    name = re.sub(r"[^\w.-]+", "-", sweep.name or name)
    return dataclasses.replace(sweep, base=plain_base(sweep.base), name=name)
