import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated

from configs import fakes

from scaling.configs import Component, Family, tree, values
from scaling.configs.component import MISSING, find_component, parameters
from scaling.configs.tree import Node, Section, section_of
from scaling.configs.types import NotInFingerprint
from scaling.experiment import Experiment

RAW = {
    "data": {"mixture": {"books": {"source": {"name": "zipf"}}}},
    "optim": {"name": "lion"},
}


def test_three_kinds_of_sections() -> None:
    family = Family("configs.fakes:MODELS")
    assert section_of(fakes.Guard) == Section(fakes.Guard)
    assert section_of(fakes.Guard | None) == Section(fakes.Guard, optional=True)
    assert section_of(Annotated[fakes.Guard, NotInFingerprint()]) == Section(fakes.Guard)
    assert section_of(Annotated[Component, family]) == Section(Component, family)
    assert section_of(Mapping[str, fakes.Guard] | None) == Section(
        entry=Section(fakes.Guard), optional=True
    )
    marked = Annotated[Mapping[str, fakes.Guard] | None, NotInFingerprint()]
    assert section_of(marked) == Section(entry=Section(fakes.Guard), optional=True)
    for value in (int, int | None, Mapping[str, float], tuple[int, ...]):
        assert section_of(value) is None


def test_find_says_the_section_and_what_is_left() -> None:
    node, rest = tree.find(fakes.Tree, RAW, "data.mixture.books.source.exponent")
    assert (node.path, node.name, rest) == ("data.mixture.books.source", "zipf", ["exponent"])
    node, rest = tree.find(fakes.Tree, RAW, "data.batch")
    assert (node.path, rest) == ("data", ["batch"])


def test_keys_are_those_of_the_component_and_the_sections_below() -> None:
    node, _ = tree.find(fakes.Tree, RAW, "optim")
    assert node.names() == ["name", "learning_rate", "b1", "decay", "schedule"]
    node, _ = tree.find(fakes.Tree, {"model": {"name": "mlp"}}, "model")
    assert "vocab_size" not in node.names()  # supplied by the code


def test_a_parameter_of_a_component_may_be_a_section() -> None:
    node = Node("train", Section(fakes.Train), {})
    below = node.child("second_guard")
    assert below is not None
    assert below.section == Section(fakes.Guard, optional=True)


def components(node: Node, seen: set[Section]) -> Iterator[tuple[str, object]]:
    """Every component of every family that the tree names."""
    if node.section in seen:
        return
    seen.add(node.section)
    if node.section.entry is not None:
        yield from components(Node(f"{node.path}.*", node.section.entry, None), seen)
        return
    for name in node.section.family.names if node.section.family else [None]:
        here = Node(node.path, node.section, {"name": name})
        if name is not None:
            yield node.path, find_component(name, node.section.family.names, node.path)
        for key in here.params():
            below = here.child(key)
            if below is not None:
                yield from components(below, seen)


def test_every_component_of_the_experiment_can_be_read() -> None:
    """Every name leads somewhere, and every default fits its own annotation and range."""
    found = list(components(tree.root(Experiment, {}), set()))
    assert {"task", "model", "optim", "optim.schedule", "data.source"} <= {
        path for path, _ in found
    }
    for path, called in found:
        assert inspect.isfunction(called) or inspect.isclass(called)
        for key, param in parameters(called).items():
            if param.default is not MISSING and section_of(param.annotation) is None:
                values.value_of(param, MISSING, f"{path}.{key}")
