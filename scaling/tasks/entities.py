"""Entities of tagged sentences, and how many are right: the rules of CoNLL's `conlleval`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

# (type, first word, word after the last)
Entity = tuple[str, int, int]


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence from its tags O, B-TYPE, I-TYPE.

    An I- that follows no word of its type begins an entity, as `conlleval` (Tjong Kim Sang and De
    Meulder 2003, cs/0306050) and seqeval have it.
    """
    spans: list[Entity] = []
    open_type, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        part, _, name = tag.partition("-")
        if open_type and (part != "I" or name != open_type):
            spans.append((open_type, start, place))
            open_type = ""
        if part != "O" and not open_type:
            open_type, start = name, place
    return spans


def entity_scores(truth: Iterable[Sequence[str]], guess: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 of entities over all sentences, and of every type.

    An entity is right with its type, first and last word. What is never predicted has precision 0, what
    never occurs recall 0.

    Args:
      truth: the tags of each sentence.
      guess: as many, of the same lengths.
    """
    right: Counter[str] = Counter()
    said: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for true_tags, guessed_tags in zip(truth, guess, strict=True):
        true, guessed = set(entities(true_tags)), set(entities(guessed_tags))
        for counter, spans in ((right, true & guessed), (said, guessed), (there, true)):
            counter.update(name for name, _, _ in spans)
    report = {
        name: _scores(right[name], said[name], there[name]) for name in sorted({*said, *there})
    }
    return {**_scores(right.total(), said.total(), there.total()), "report": report}


def _scores(right: int, said: int, there: int) -> dict[str, Any]:
    return {
        "precision": right / max(1, said),
        "recall": right / max(1, there),
        "f1": 2 * right / max(1, said + there),
        "support": there,
    }
