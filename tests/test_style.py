"""How the code reads: habits that came back too often to leave them to reviews."""

import ast
import re
from collections.abc import Iterator

import pytest
from helpers import ROOT

PACKAGE = ROOT / "scaling"
# What the plain words are for: "is not a", "except", "which", the name of the thing.
HABITS = r"(?<![Tt]here )\b(is|are) no [a-z]|\bbut for\b|\b[Ww]hoever\b|\b(found|told)(: .*)? = "
# Where JAX, JSON or another library leaves a type open it is Any; elsewhere there is a narrower one.
ANY = r": Any\b|-> Any\b|\bPyTree = Any\b"
# The lines, by package, on which nothing narrower than Any will do: a number that may only fall.
CHECKED = {
    "laws": 2,
    "planning": 1,
    "data": 2,
    "models": 0,
    "ops": 1,
    "optim": 0,
    "tasks": 0,
    "track": 6,
    "experiment": 0,
    "lazy": 1,
    "cli": 1,
    "configs": 60,
    "parallel": 21,
    "sweeps": 9,
    "train": 19,
}


def modules(package: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of every module, or of those of one package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if package in ("", path.relative_to(PACKAGE).parts[0].removesuffix(".py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def lines(package: str, pattern: str) -> list[str]:
    return [
        f"{path}: {line.strip()}"
        for path, text in modules(package)
        for line in text.splitlines()
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("package", CHECKED)
def test_words_and_types(package: str) -> None:
    assert not lines(package, HABITS)
    assert len(lines(package, ANY)) <= CHECKED[package]


def words(text: str) -> set[str]:
    """Stems of the words of a name or a sentence, without the small ones."""
    parts = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    small = {"a", "an", "the", "it", "its", "of", "this", "and", "all", "is", "to", "in", "for"}
    return {re.sub(r"(es|s|ed|ing|e)$", "", part) for part in parts} - small


def test_no_docstring_only_repeats_the_name() -> None:
    repeats = []
    for path, text in modules():
        for outer in ast.walk(ast.parse(text)):
            for node in outer.body if isinstance(outer, ast.Module | ast.ClassDef) else ():
                name = f"{getattr(node, 'name', '')} {getattr(outer, 'name', '')}"
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    doc = ast.get_docstring(node) or ""
                    if words(doc) and words(doc) <= words(name):
                        repeats.append(f"{path}:{node.lineno} {node.name}: {doc}")
    assert not repeats
