"""Imports go one way: each package only imports those before it, and no module is in a circle."""

import ast
import pathlib

from helpers import ROOT

# What imports nothing of ours first, front doors last.
LAYERS = (
    *(
        "lazy",
        "configs",
        "experiment",
        "cli",
        "track",
        "parallel",
        "ops",
        "models",
        "data",
        "optim",
    ),
    *("tasks", "train", "laws", "sweeps", "planning"),
    *("main", "fit", "plan", "sweep", "doctor", "__main__"),
)

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "scaling").rglob("*.py"))
}


def imports(path: pathlib.Path) -> set[str]:
    """Modules of ours that a file imports anywhere, inside functions too; not those for types alone."""
    found, tree = set(), ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: import by the full name"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found & MODULES.keys()


def components(path: pathlib.Path) -> set[str]:
    """Modules of ours that a table of components names in a file."""
    texts = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text.partition(":")[0] for text in texts if ":" in text} & MODULES.keys()


GRAPH = {name: imports(path) - {name} for name, path in MODULES.items()}


def layer(module: str) -> str:
    return module.split(".")[1]


def test_every_package_has_its_layer() -> None:
    packages = {layer(name) for name in MODULES if name != "scaling"}
    assert packages == set(LAYERS)


def test_no_import_goes_up() -> None:
    up = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if "scaling" not in (name, other) and LAYERS.index(layer(other)) > LAYERS.index(layer(name))
    ]
    assert not up


def test_no_table_of_components_names_a_higher_package() -> None:
    """Only the schema of configs does: there a table of each family is where its names come from."""
    up = [
        f"{name} names {other}"
        for name, path in MODULES.items()
        if layer(f"{name}.") not in ("configs", "experiment")
        for other in components(path)
        if LAYERS.index(layer(f"{other}.")) > LAYERS.index(layer(f"{name}."))
    ]
    assert not up


def test_models_know_no_mesh_and_no_loss() -> None:
    for name, others in GRAPH.items():
        if layer(name + ".") == "models":
            assert not {o for o in others if layer(o) in ("parallel", "tasks", "data", "optim")}, (
                name
            )


def test_no_module_is_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in GRAPH[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())
