import dataclasses
import inspect

from configs import fakes

from scaling.configs import schema


def test_pattern_of_a_path() -> None:
    assert schema.pattern("data.mixture.books", fakes.SCHEMA) == "data.mixture.*"
    assert schema.pattern("data.mixture.books.source", fakes.SCHEMA) == "data.mixture.*.source"
    assert schema.pattern("data.batch", fakes.SCHEMA) is None
    assert schema.pattern("", fakes.SCHEMA) == ""


def test_children() -> None:
    assert schema.children("data", fakes.SCHEMA) == {
        "source": "data.source",
        "mixture": "data.mixture",
    }
    assert list(schema.children("", fakes.SCHEMA)) == ["model", "data", "optim", "mesh", "train"]


def test_external_parameters_are_no_keys() -> None:
    assert "vocab_size" not in schema.section_parameters(fakes.SCHEMA["model"], "mlp", "model")
    keys = schema.section_parameters(fakes.SCHEMA["optim.schedule"], "cosine", "optim.schedule")
    assert list(keys) == ["warmup", "final"]


def test_every_component_of_the_shipped_schema_can_be_read() -> None:
    """Every name leads somewhere, and every default fits its own annotation and range."""
    from scaling.configs import resolution, signature

    for path, section in schema.SCHEMA.items():
        if isinstance(section, schema.Entries):
            continue
        names = [None]
        if isinstance(section, schema.Named):
            names = list(signature.import_from(section.table))
        for name in names:
            component = schema.section_component(section, name, path)
            assert inspect.isfunction(component) or dataclasses.is_dataclass(component)
            below = schema.children(path, schema.SCHEMA)
            for key, param in schema.section_parameters(section, name, path).items():
                if param.default is not signature.MISSING and key not in below:
                    resolution.resolve_value(param, signature.MISSING, f"{path}.{key}")
