"""From the resolved config to data: the one place where sources, tokenizers and orders meet.

What cannot be used as asked is a DataError that says what to do.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import numpy as np

from scaling import configs
from scaling.data.cache import Entry
from scaling.data.documents import Part, TextSource
from scaling.data.errors import DataError
from scaling.data.images import OpenImages
from scaling.data.info import Data, DataContext, DataInfo, Opened, Opens
from scaling.data.loader import Concat, Dataset, EvalSet, Loader
from scaling.data.order import LaneOrder, MixtureOrder, Order, ShuffledOrder
from scaling.data.sources import SOURCES
from scaling.data.tokenizers import Fitted, Tokenizer, tokenizer_of
from scaling.data.windows import Windows, open_tokens, text_spec, token_stream, warn_of_markers
from scaling.experiment import DataConfig, Experiment, TextConfig
from scaling.track.paths import cache_root, expand

# Keys of `data` that every source has a use for; the others a source names in `reads`.
_COMMON = ("source", "on_end", "seed", "prefetch", "workers", "cache_dir")


def describe(config: Experiment) -> DataInfo:
    """What the data of a resolved config says of itself, without reading it."""
    context = _context(config, None)
    return _opener(context.section).describe(context)


def build(config: Experiment, cache_dir: pathlib.Path | str | None = None) -> Data:
    """Prepares the data of a config: reads and tokenises what is not in the cache yet.

    Besides `data`, `seed` and `train.batch_size` count. `cache_dir` is where prepared data is kept when
    `data.cache_dir` does not say it.
    """
    context = _context(config, cache_dir)
    section = context.section
    opened = _opener(section).open(context)
    dataset = _joined(list(opened.train.values()))
    order = opened.order or _order(context, opened.train)
    loader = Loader(dataset, order, context.batch_size, section.on_end)
    evals = {name: EvalSet(one, section.text.lanes) for name, one in opened.evals.items()}
    sizes = {**opened.sizes, "train_examples": len(dataset)}
    if "eval" in evals:
        sizes["eval_examples"] = len(evals["eval"])
    return Data(opened.info, loader, evals, sizes, opened.artefacts)


def _context(config: Experiment, cache_dir: pathlib.Path | str | None) -> DataContext:
    section = config.data
    try:
        stated = section.cache_dir or cache_dir
        root = expand(str(stated), "data.cache_dir") if stated else cache_root()
    except RuntimeError as error:
        raise DataError(str(error)) from error
    seed = config.seed if section.seed is None else section.seed
    return DataContext(section, seed, config.train.batch_size, root / "data")


def _order(context: DataContext, train: Mapping[str, Dataset]) -> Order:
    section, seed = context.section, context.seed
    if section.mixture is None:
        (dataset,) = train.values()
        if section.text.lanes:
            return LaneOrder(len(dataset), context.batch_size)
        return ShuffledOrder(len(dataset), seed)
    lengths = {name: len(member) for name, member in train.items()}
    order = MixtureOrder(lengths, {name: section.mixture[name].weight for name in lengths}, seed)
    if section.on_end == "stop" and not order.length:
        raise DataError(
            f"data.mixture: a member has fewer examples ({lengths}) than one block of the "
            f"mixture needs ({order.slots}): use data.on_end=repeat, or other weights"
        )
    return order


def _opener(section: DataConfig) -> Opens:
    """What opens the data: the source itself, or what opens sources of text or of images."""
    section.check()
    if section.source is not None:
        sources = {"train": configs.build(section.source, SOURCES)}
    else:
        entries = (section.mixture or {}).items()
        sources = {name: configs.build(entry.source, SOURCES) for name, entry in entries}
    kinds = {_kind(source) for source in sources.values()}
    if len(kinds) != 1 or (section.mixture is not None and kinds != {"text"}):
        raise DataError(f"data.mixture mixes sources of text, not {' and '.join(sorted(kinds))}")
    if section.mixture is not None and section.text.lanes:
        raise DataError(
            "data.text.lanes reads one text on and on, which a mixture cannot: give data.source, or "
            "--config.data.text.lanes=False"
        )
    (kind,), source = kinds, next(iter(sources.values()))
    opener: Opens = {"own": source, "images": OpenImages(source), "text": OpenText(sources)}[kind]
    _refuse_idle(section, {*_COMMON, "text", *getattr(opener, "reads", ())})
    return opener


def _kind(source: object) -> str:
    """What decides how a source is opened: "text", "images", or "own" where it opens itself."""
    if hasattr(source, "open"):
        return "own"
    kind = getattr(source, "kind", None)
    if kind not in ("text", "images"):
        raise DataError(
            f"data.source: {type(source).__name__} is of kind {kind!r} and has no method `open`: "
            "give it describe(context) and open(context), or kind = 'text' or 'images'"
        )
    return kind


def _refuse_idle(section: DataConfig, used: Collection[str]) -> None:
    """Refuses keys that are set and that nothing would read.

    They would make two runs with the same batches pass for different experiments.
    """
    name = section.source.name if section.source else "text"
    for path, stated, defaults in (
        ("data", section, DataConfig()),
        ("data.text", section.text, TextConfig()),
    ):
        for field in dataclasses.fields(defaults):
            value, default = getattr(stated, field.name), getattr(defaults, field.name)
            if field.name == "tokenizer":
                value, default = value.name, default.name
            if field.name not in used and value != default:
                raise DataError(
                    f"{path}.{field.name}={value} does nothing: "
                    f"data.source.name={name} does not read it, so leave "
                    f"{path}.{field.name} out"
                )


@dataclasses.dataclass(frozen=True)
class OpenText:
    """Opens sources of text, one or the members of a mixture."""

    reads: ClassVar[tuple[str, ...]] = tuple(
        field.name for section in (DataConfig, TextConfig) for field in dataclasses.fields(section)
    )

    sources: Mapping[str, TextSource]

    def describe(self, context: DataContext) -> DataInfo:
        """Shapes and the vocabulary, by the config alone."""
        return _describe_text(context.section, tokenizer_of(context.section.text))

    def open(self, context: DataContext) -> Opened:
        """Training and held-out text as windows of tokens."""
        section, cache = context.section, context.cache
        train, held_out = {}, {}
        for name, source in self.sources.items():
            train[name], part = _split(section, source)
            if part is not None:
                held_out[name] = part
        if section.eval_source is not None:
            other = configs.build(section.eval_source, SOURCES)
            if _kind(other) != "text":
                raise DataError(
                    f"data.eval_source is of {other.kind}, and the training data of text"
                )
            held_out = {"eval": Part(other)}
        tokenizer = tokenizer_of(section.text).fit(list(train.values()), cache)
        held = {name: token_stream(part, tokenizer, cache) for name, part in held_out.items()}
        exclude = list(held.values())
        streams = {
            name: token_stream(part, tokenizer, cache, exclude) for name, part in train.items()
        }
        warn_of_markers([*streams.values(), *exclude])
        separator = tokenizer.vocab_size - 1 if section.text.mask_documents else None

        def windows(entry: Entry, limit: int | None) -> Windows:
            lanes = section.text.lanes
            return Windows(open_tokens(entry), section.text.seq_len, separator, limit, lanes)

        return Opened(
            info=_describe_text(section, tokenizer),
            train={name: windows(entry, section.limit) for name, entry in streams.items()},
            evals=_splits({name: windows(entry, None) for name, entry in held.items()}),
            artefacts={"tokenizer": tokenizer},
            sizes=_totals("train", streams.values()) | _totals("eval", held.values()),
        )


def _describe_text(section: DataConfig, tokenizer: Tokenizer | Fitted) -> DataInfo:
    starts = getattr(tokenizer, "starts_word", None)
    return DataInfo(
        kind="text",
        unit="tokens",
        spec=text_spec(section.text.seq_len, section.text.mask_documents),
        vocab_size=tokenizer.vocab_size,
        token_bytes=getattr(tokenizer, "token_bytes", None),
        separator=tokenizer.vocab_size - 1,
        facts={} if starts is None else {"starts_word": np.flatnonzero(starts).tolist()},
    )


def _totals(side: str, entries: Collection[Entry]) -> dict[str, int]:
    sums = {
        f"{side}_{unit}": sum(entry.meta[unit] for entry in entries)
        for unit in ("tokens", "bytes", "documents", "blank")
    }
    blank = sums.pop(f"{side}_blank")
    return sums | ({f"{side}_documents_without_text_left_out": blank} if blank else {})


def _split(section: DataConfig, source: TextSource) -> tuple[Part, Part | None]:
    """The training part of a source, and what is held out of it or beside it."""
    if section.eval_source is not None:
        return Part(source), None
    own = source.held_out()
    if own is not None:
        return Part(source), Part(own)
    if not section.eval_fraction:
        return Part(source), None
    split = (section.text.holdout, section.eval_fraction)
    return Part(source, "train", *split), Part(source, "eval", *split)


def _splits(members: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """All held-out data as `eval`, and that of each mixture member as `eval_<member>`."""
    if not members:
        return {}
    parts = {f"eval_{name}": one for name, one in members.items()}
    return {"eval": _joined(list(members.values()))} | (parts if len(parts) > 1 else {})


def _joined(members: Sequence[Dataset]) -> Dataset:
    return members[0] if len(members) == 1 else Concat(members)
