"""What a stranger's columns may mean: proposals, as the flags to type, never a guess in silence."""

import difflib
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

# Names that public tables use, without case, spaces and marks; those before are nearer.
KNOWN: Mapping[str, tuple[str, ...]] = {
    "params": (
        *("params", "n", "nparams", "numparams", "parameters", "numparameters", "modelsize"),
        *("paramsactiveprecise", "paramsactive", "activeparams", "paramsprecise", "paramstotal"),
        *("totalparams", "nonembeddingparams", "paramcount", "modelparams", "size"),
        *("parametercount", "denseparametercount", "totalparametercount"),
    ),
    "tokens": (
        *("tokens", "d", "ntokens", "numtokens", "traintokens", "trainingtokens", "tokensseen"),
        *("tokenstrained", "totaltokens", "datasetsize", "traindata"),
    ),
    "loss": (
        *("loss", "l", "valloss", "validationloss", "evalloss", "finalloss", "testloss"),
        *("finalvalloss", "finalevalloss", "crossentropy", "ce", "testce", "trainloss"),
        *("lossval", "lossvalidation", "losstest"),
    ),
    "flops": (
        *("flops", "c", "flop", "trainingflop", "trainingflops", "trainflops", "totalflops"),
        *("compute", "budget"),
    ),
    "examples": ("examples", "seenexamples", "trainsize", "nexamples", "numexamples", "samples"),
    "steps": ("steps", "step", "trainsteps", "iterations", "iteration"),
    "error": ("error", "err", "errorrate", "testerror", "top1error"),
    "unique_tokens": ("uniquetokens", "u", "distincttokens"),
    "run_id": (
        *("runid", "run", "runname", "experimentid", "expname", "expid", "hyperid", "wandbid"),
        *("jobid", "trial", "trialid", "modelname", "name"),
    ),
}
RECIPE = (
    *("lr", "learningrate", "maxlr", "peaklr", "baselr", "bs", "batchsize", "batch"),
    *("globalbatchsize", "wd", "weightdecay", "warmup", "warmupsteps", "beta1", "beta2", "eps"),
    *("dropout", "momentum"),
)
FACTORS = {
    **dict.fromkeys(("k", "thousands"), "1e3"),
    **dict.fromkeys(("m", "millions"), "1e6"),
    **dict.fromkeys(("b", "g", "billions"), "1e9"),
    **dict.fromkeys(("t", "trillions"), "1e12"),
}
# What a column's name says of its unit: "params (M)", "tokens_B", "tokens in billions".
_UNIT = re.compile(r"\(([kmbgt])\)|_([kmb])$|\b(thousands|(?:m|b|tr)illions)\b", re.IGNORECASE)
COUNTED = ("params", "tokens", "flops")
MOST_LISTED = 24


def plain(name: str) -> str:
    """A column's name without case, unit and marks: "Val. loss" and "val_loss" are one."""
    return re.sub(r"[^a-z0-9]", "", _UNIT.sub("", name).removesuffix(" in ").lower())


def unit(name: str) -> tuple[str, str] | None:
    """(the word, the factor) of the unit that a column's name says, such as ("M", "1e6")."""
    word = _UNIT.search(name)
    said = next(filter(None, word.groups())) if word else None
    return (said, FACTORS[said.lower()]) if said else None


def typed(*lines: tuple[str, str] | str) -> str:
    """Lines to type after a message, one flag each and what it does: a shell takes them as they are."""
    pairs = [(line, "") if isinstance(line, str) else line for line in lines]
    return "".join(
        f"\n  {shlex.quote(flag)}{f'   # {comment}' if comment else ''}" for flag, comment in pairs
    )


def nearest(name: str, columns: Iterable[str]) -> str | None:
    """The column that most likely holds what a law calls `name`, by known names, then by spelling.

    Of nested values (`results.0.loss`) the last part counts, after whole names.
    """
    columns = list(columns)
    by_plain = {plain(column): column for column in reversed(columns)}
    by_last = {plain(column.rpartition(".")[2]): column for column in reversed(columns)}
    known = KNOWN.get(name, (plain(name),))
    for names, candidate in itertools.product((by_plain, by_last), known):
        if candidate in names:
            return names[candidate]
    for candidate in known:
        if len(candidate) > 3 and (near := difflib.get_close_matches(candidate, by_plain, 1, 0.8)):
            return by_plain[near[0]]
    return None


def listed(columns: Sequence[str]) -> str:
    """The first columns of a table for a message, and how many more there are."""
    more = len(columns) - MOST_LISTED
    return f"{list(columns[:MOST_LISTED])}{f' and {more} more' if more > 0 else ''}"


def proposal(names: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Columns for those of `names` for which there is a likely one, each column once."""
    origins: dict[str, str] = {}
    for name in names:
        free = [c for c in columns if c not in origins.values()]
        if near := nearest(name, free):
            origins[name] = near
    return origins


def mapping(origins: Mapping[str, str]) -> str:
    """The flag `--columns=...`, with the factor that a name's unit asks for."""
    parts = []
    for name, origin in origins.items():
        said = unit(origin) if name in COUNTED else None
        parts.append(f"{name}={origin}{f'*{said[1]}' if said else ''}")
    return f"--columns={','.join(parts)}"


def missing_columns(names: Sequence[str], columns: Iterable[str], source: str) -> str:
    """The message for absent columns of a law: all at once, and the flag that maps likely ones."""
    here = list(columns)
    plural = "columns" if len(names) > 1 else "column"
    head = f"{source} has no {plural} {', '.join(map(repr, names))} (it has {listed(here)})"
    free = [c for c in here if c not in COUNTED]
    origins = proposal(names, free)
    counts = [name for name in names if name in COUNTED]
    if any(name not in origins for name in counts) and "flops" not in here:
        # Any two of params, tokens and flops give the third.
        origins |= proposal(["flops"], [c for c in free if c not in origins.values()])
    computed = len({k for k in COUNTED if k in here or k in origins}) == 2
    left = [n for n in names if n not in origins and not (computed and n in COUNTED)]
    if not origins:
        return f"{head}; map it with --columns={','.join(f'{n}=COLUMN' for n in left)}"
    what = "if these are the columns, write"
    if left:
        what = f"{', '.join(left)} must be mapped by hand ({left[0]}=COLUMN); the others may be"
    return f"{head}; {what}{typed(mapping(origins))}"


def missing_column(name: str, columns: Iterable[str], source: str, remedy: str) -> str:
    """The message for a column that a flag names and the table lacks, with the nearest that exists."""
    here = list(columns)
    near = difflib.get_close_matches(name, here, 1, 0.5)
    hint = f"; did you mean {near[0]!r}" if near else ""
    return f"{source} has no column {name!r}{hint} (it has {listed(here)}); give {remedy}"


def unit_refusal(origin: str, name: str, source: str) -> str | None:
    """Why a column whose name says another unit than one cannot be taken as it is; None if it can."""
    said = unit(origin) if name in COUNTED else None
    if not said:
        return None
    flag, bare = (f"--columns={name}={origin}*{factor}" for factor in (said[1], "1"))
    return f"{source}: column {origin!r} seems to be in {said[0]}: write" + typed(
        flag, (bare, "if it is in units")
    )


_SPELLED = re.compile(r"(-?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?)\s*([kmbgt%]?)", re.IGNORECASE)


def spelled(cell: str) -> str | None:
    """1,018 and 12B and 45 % as Python spells numbers (None: it is something else)."""
    match = _SPELLED.fullmatch(cell.strip())
    if not match:
        return None
    digits, mark = match[1].replace(",", ""), match[2].lower()
    factor = "1e-2" if mark == "%" else FACTORS.get(mark, "1")
    return repr(float(digits) * float(factor))
