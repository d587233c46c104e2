"""What a cell costs, against the program that trains it."""

import json
import subprocess
import sys

import jax
import pytest
from sweep_helpers import BASE

from scaling import configs, data, parallel
from scaling.sweeps.cost import measure, of_one_step
from scaling.train.program import build_program


def config(**changes):
    return configs.resolve(configs.with_values(BASE, changes))


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "lion"])
def test_the_size_of_a_state_is_that_of_the_state_that_trains(name):
    """The optimizer's own `init` is asked, not a table of names."""
    one = config(**{"optim.name": name, "train.ema_decay": 0.9})
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    state = build_program(one, data.describe(one), mesh).abstract
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    # Step, random key and guard of the norm are a few numbers more.
    assert 0 <= size - of_one_step(one).kept_bytes < 64


def test_kept_checkpoints_are_counted():
    kept = {"checkpoint.every": 5, "checkpoint.keep_last": 2, "checkpoint.keep_best": 1}
    one = config(**kept, **{"eval.every": 5})
    assert measure(one).kept_bytes == 3 * of_one_step(one).kept_bytes
    short = config(**{"checkpoint.every": 0, "train.steps": 7})
    assert measure(short).kept_bytes == of_one_step(short).kept_bytes
    assert measure(short).units == 7 * measure(short).step_units
    assert measure(short).objective == "loss"


def test_counting_starts_no_backend_and_importing_the_package_no_jax():
    code = (
        "import sys, json\nimport scaling.sweeps, scaling.sweeps.search\n"
        "assert 'jax' not in sys.modules, 'jax was imported'\n"
        "from scaling import configs\nfrom scaling.sweeps.cost import measure\n"
        "measure(configs.resolve(json.loads(sys.argv[1])))\n"
        "from jax._src import xla_bridge\nassert not xla_bridge._backends, 'a backend was started'"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(BASE)], check=True)
