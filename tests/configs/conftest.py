import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from configs import fakes

from scaling import configs

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg="plain"):
    config = ConfigDict()
    config.model = ConfigDict(dict(name="transformer", width=64))
    config.optim = ConfigDict(dict(name="adamw", learning_rate=1e-3, b2=0.95))
    config.data = ConfigDict(
        dict(mixture=dict(code=dict(weight=2, source=dict(name="zipf"))))
    )
    config.train = ConfigDict(dict(batch_size=8))
    config.data.batch = config.train.get_ref("batch_size") * 2
    if arg == "small":
        config.model.width = 8
    return config
"""


@pytest.fixture
def config_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "experiment.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def resolved(config_file: pathlib.Path) -> Callable[..., Any]:
    """Resolve the experiment above, built from the fake components, under overrides."""

    def resolve(*overrides: str) -> Any:
        return configs.resolve(configs.load(str(config_file), overrides, fakes.Tree), fakes.Tree)

    return resolve
