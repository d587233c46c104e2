"""Every shipped large config still compiles for a TPU, with the memory it had.

Two layers, short sequences and the compiler's least effort, so that all of them take a minute; a
change that breaks their sharding, or copies a large array to every device, shows here without a TPU.
After a change that is meant to move them:
    SCALING_WRITE_GOLDEN=1 pytest tests/planning/test_golden_peaks.py
"""

import json
import os
import pathlib

import pytest
from helpers import quick

from scaling import configs
from scaling.planning import compile as compiling
from scaling.planning import topology

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(__file__).with_name("golden_peaks.json")
CASES = {
    "gpt2-124m": ("gpt2.py:124m", "v5e-4"),
    "gpt2-350m": ("gpt2.py:350m", "v5e-4"),
    "gpt2-774m": ("gpt2.py:774m", "v5e-4"),
    "gpt2-1.5b": ("gpt2.py:1.5b", "v5e-4"),
    "llama-1b": ("llama.py:1b", "v5e-4"),
    "llama-7b": ("llama.py:7b", "v5e-4"),
    "llama-16b": ("llama.py:16b", "v5p-8"),
    "llama-70b": ("llama.py:70b", "v5p-8"),
}
# The compiler packs a little differently in every release.
SAME_VERSION, OTHER_VERSION = 0.03, 0.15


def compiled(name: str) -> dict:
    spec, hardware = CASES[name]
    target = topology.parse(hardware)
    topology.prepare(target)
    changes = [
        "model.num_layers=2",
        "data.seq_len=256",
        f"train.batch_size={target.num_devices}",
        "eval.batch_size=None",
    ]
    config = configs.load_resolved(str(ROOT / "experiments" / spec), changes)
    plan = compiling.compile_plan(config, target, effort="least")
    assert plan.fits, plan.overflow
    return {
        "topology": hardware,
        "peak_mib": round(plan.memory.peak / 2**20, 1),
        "arguments_mib": round(plan.memory.arguments / 2**20, 1),
        "flops_ratio": round(plan.overhead, 3),
        "collectives": sorted({f"{one.kind} {one.axes}" for one in plan.traffic}),
        "jax": plan.versions["jax"],
    }


@pytest.mark.parametrize("name", quick(CASES, "llama-7b"))
def test_peak_memory_is_what_it_was(name):
    pytest.importorskip(
        "libtpu", reason="the extra tpu, which brings the compiler, is not installed"
    )
    found = compiled(name)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("SCALING_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(golden | {name: found}, indent=1, sort_keys=True) + "\n")
        return
    wanted = golden[name]
    tolerance = SAME_VERSION if found["jax"] == wanted["jax"] else OTHER_VERSION
    assert found["peak_mib"] == pytest.approx(wanted["peak_mib"], rel=tolerance)
    assert found["arguments_mib"] == pytest.approx(wanted["arguments_mib"], rel=0.01)
    assert found["flops_ratio"] == pytest.approx(wanted["flops_ratio"], rel=tolerance)
    if found["jax"] == wanted["jax"]:
        assert found["collectives"] == wanted["collectives"]


def test_every_large_config_is_here():
    from scaling.configs.files import variants

    shipped = set()
    for file in ("gpt2", "llama"):
        names = variants(ROOT / "experiments" / f"{file}.py")
        shipped |= {f"{file}-{name}" for name in names}
    assert shipped == set(CASES)
