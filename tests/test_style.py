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


OPENERS = {"open": 1, "TemporaryFile": 0, "NamedTemporaryFile": 0}


def _without_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in whatever encoding the machine is set to."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", "")
    keys = {word.arg: word.value for word in call.keywords}
    if "encoding" in keys or owner in ("os", "files", "tokenize", "wave", "PIL"):
        return False
    if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
        return True
    if "text" in keys or "universal_newlines" in keys:
        return name in ("run", "Popen", "check_output", "check_call")
    if name not in OPENERS:
        return False
    place = 0 if isinstance(call.func, ast.Attribute) and not owner.endswith("zip") else 1
    place = OPENERS[name] if name != "open" else place
    mode = keys.get("mode", call.args[place] if len(call.args) > place else None)
    if mode is None:  # tempfile's own mode is binary, and `open` methods of other classes vary
        return name == "open" and isinstance(call.func, ast.Name)
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" not in mode.value


@pytest.mark.parametrize("folder", ["scaling", "scripts", "experiments"])
def test_text_is_read_and_written_as_utf_8(folder: str) -> None:
    """Under LC_ALL=C Python takes ASCII for text without a stated encoding."""
    bad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _without_encoding(node)
    ]
    assert not bad
