"""The package's names: complete, lazy, and none of them hidden by a module."""

import ast
import pathlib
import subprocess
import sys

import pytest

from scaling import parallel

HOME = pathlib.Path(parallel.__file__)


def test_every_name_is_there_and_no_module_has_it() -> None:
    modules = {path.stem for path in HOME.parent.glob("*.py")}
    assert not modules & set(parallel.__all__)
    blocks = [n for n in ast.parse(HOME.read_text()).body if isinstance(n, ast.If)]
    typed = {alias.name for line in blocks[0].body for alias in line.names}
    assert typed == set(parallel.__all__)
    with pytest.raises(AttributeError, match="no attribute 'mesh_of'"):
        parallel.mesh_of  # noqa: B018
    for name in parallel.__all__:
        assert getattr(parallel, name).__name__ == name


def test_importing_is_light_and_nothing_starts_a_backend() -> None:
    modules = [path.stem for path in HOME.parent.glob("[a-z]*.py")]
    code = (
        "import sys, importlib\n"
        "import scaling.parallel, scaling.optim\n"
        "assert 'jax' not in sys.modules and 'flax' not in sys.modules\n"
        f"for name in {modules!r}: importlib.import_module('scaling.parallel.' + name)\n"
        "import scaling.optim.build, scaling.optim.optimizers, scaling.optim.schedules\n"
        "from jax.extend import backend\n"
        "import jax\n"
        "jax.config.update('jax_num_cpu_devices', 3)  # an error once a backend runs\n"
        "assert len(jax.devices()) == 3\n"
    )
    environment = {"PATH": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
