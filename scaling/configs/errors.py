"""The one error that a wrong config or a wrong command line ends in."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence


class ConfigError(ValueError):
    """A config or a command line that cannot be run; every front door exits with 2.

    Attributes:
      key: path of the key at fault (`optim.b2`), or the flag (`--workdir`).
      reason: what is wrong, with the value.
      remedy: what to do about it, with the nearest valid key where there is one.
    """

    def __init__(self, key: str, reason: str, remedy: str = "") -> None:
        super().__init__(key, reason, remedy)
        self.key, self.reason, self.remedy = key, reason, remedy

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" + (f"\n  {self.remedy}" if self.remedy else "")


class RefusedError(ValueError):
    """A value that does not fit, before it is known under which key it stands."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason, remedy)
        self.reason, self.remedy = reason, remedy


def local_path(text: str) -> str:
    """The text, unless it is a URL (RefusedError), of which a folder of that name would be made here."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise RefusedError(
            f"{text} is a URL, and everything here reads and writes the file system of this machine",
            "mount the bucket (gcsfuse, s3fs, a volume of the cluster) and give the path there, or "
            "use a folder here and copy it",
        )
    return text


def place(text: str) -> str:
    """A path of this machine as somebody typed it, `~` expanded: shells leave that of `--flag=~/x`."""
    expanded = os.path.expanduser(local_path(text))
    if expanded.startswith("~"):
        what = f"{text} cannot be found, as there is no such home directory"
        raise RefusedError(what, f"give the whole path, or ./{text} for a folder of that name")
    return expanded


def nearest(word: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Candidates that a person who typed `word` may have meant, best first; empty if none is near.

    Near is: a few letters apart, the same letters shortened (`lr` for `learning_rate`, `dim` for
    `model_dim`), or the same last part of a path (`batch_size` for `train.batch_size`).
    """
    unique = list(dict.fromkeys(candidates))
    scored = [(_likeness(word, candidate), candidate) for candidate in unique]
    scored = sorted((pair for pair in scored if pair[0] > 0.6), key=lambda pair: -pair[0])
    return [candidate for _, candidate in scored[:count]]


def suggest(word: str, candidates: Sequence[str], prefix: str = "", what: str = "keys") -> str:
    """A sentence for `remedy`: the nearest candidates, or all of them when none is near."""
    close = nearest(word, candidates)
    if close:
        return "did you mean " + " or ".join(prefix + one for one in close) + "?"
    if not candidates:
        return ""
    return f"the {what} here are: " + ", ".join(candidates)


def _likeness(typed: str, candidate: str) -> float:
    """0 to 1.1; above 0.6 is near."""
    typed, candidate = typed.lower(), candidate.lower()
    leaf, typed_leaf = candidate.rpartition(".")[2], typed.rpartition(".")[2]
    score = max(
        difflib.SequenceMatcher(None, typed, candidate).ratio(),
        0.95 * difflib.SequenceMatcher(None, typed, leaf).ratio(),
    )
    if typed_leaf == leaf:
        score += 0.1 if score > 0.6 else 0.65 - score
    initials = "".join(part[:1] for part in leaf.split("_"))
    part = len(typed) > 2 and typed in leaf
    whole = len(leaf) > 3 and typed.startswith(leaf)
    if typed == initials or part or whole:
        score = max(score, 0.75)
    return score
