import pathlib

import pytest
from configs import fakes
from helpers import ROOT

from scaling import configs
from scaling.configs import ConfigError, files

QUICKSTART = ROOT / "experiments" / "quickstart.py"


def test_argument_and_default_argument(config_file: pathlib.Path) -> None:
    assert configs.load(str(config_file), tree_type=fakes.Tree).model.width == 64
    assert configs.load(f"{config_file}:small", tree_type=fakes.Tree).model.width == 8


def test_name_comes_from_the_file_where_the_file_gives_none(config_file: pathlib.Path) -> None:
    assert configs.load(f"{config_file}:small", tree_type=fakes.Tree).name == "experiment-small"


def test_json_loads_as_the_config_it_was(config_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = configs.resolve(configs.load(str(config_file), tree_type=fakes.Tree), fakes.Tree)
    path = tmp_path / "config.json"
    path.write_text(configs.to_json(config))
    assert configs.resolve(configs.load(str(path), tree_type=fakes.Tree), fakes.Tree) == config
    changed = configs.load(str(path), ["train.steps=3"], tree_type=fakes.Tree)
    assert changed.train.steps == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "no function get_config"),
        ("def get_config(: pass", "SyntaxError"),
        ("def get_config(arg=''):\n    return 1 / 0", "line 2: ZeroDivisionError"),
        ("def get_config(arg=''):\n    return 5", "returned int"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("def get_config(arg):\n    raise ValueError('choose a or b')", "choose a or b"),
    ],
)
def test_broken_files_are_named_with_their_line(
    tmp_path: pathlib.Path, text: str, words: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        configs.load(str(path), tree_type=fakes.Tree)
    assert "broken.py" in caught.value.reason


def test_argument_for_a_file_that_takes_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text("def get_config():\n    return {}")
    assert configs.load(str(path), tree_type=fakes.Tree).name == "plain"
    with pytest.raises(ConfigError, match="takes no argument"):
        configs.load(f"{path}:big", tree_type=fakes.Tree)


def test_missing_file_names_the_nearest(config_file: pathlib.Path) -> None:
    for wrong in ("expriment.py", "experiment", "experiment.yaml", "expriment.py:small"):
        with pytest.raises(ConfigError, match=r"experiment\.py|name a \.py file") as caught:
            configs.load(str(config_file.with_name(wrong)), tree_type=fakes.Tree)
        assert caught.value.key == "--config"


def test_variant_names_the_nearest() -> None:
    assert configs.variant("", ("1b", "7b"), default="1b") == "1b"
    with pytest.raises(ConfigError, match="did you mean 124m"):
        configs.variant("125m", ("124m", "350m"))


def test_variants(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "many.py"
    path.write_text("VARIANTS = ('a', 'b')\ndef get_config(arg): return {}")
    assert files.variants(path) == ["a", "b"]
    path.write_text("def get_sweep(): return []")
    assert files.variants(path) is None


def test_compare_run_directories_and_files(tmp_path: pathlib.Path) -> None:
    for name, steps in (("a", 300), ("b", 400)):
        (tmp_path / name).mkdir()
        config = configs.load_resolved(str(QUICKSTART), [f"train.steps={steps}"])
        (tmp_path / name / "config.json").write_text(configs.to_json(config))
    table = files.compare(str(tmp_path / "a"), str(tmp_path / "b" / "config.json"))
    assert table.splitlines()[1].split() == ["train.steps", "300", "400"]
    assert len(table.splitlines()) == 2
    with pytest.raises(ConfigError, match=r"no config\.json"):
        files.compare(str(tmp_path), str(tmp_path / "a"))
