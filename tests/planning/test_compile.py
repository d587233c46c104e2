"""Plans of small configs for fake CPU devices and for TPU slices that are not here."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT, resolved

from scaling import configs
from scaling.configs import ConfigError
from scaling.planning import compile as compiling
from scaling.planning import report, topology
from scaling.track import provenance

SMALL = {
    "model.num_layers": 2,
    "model.model_dim": 256,
    "model.num_heads": 2,
    "model.vocab_size": 512,
    "data.seq_len": 128,
    "train.batch_size": 16,
}


def small(**changes):
    base = {
        "name": "small",
        "task": {"name": "language_model"},
        "data": {"source": {"name": "stdlib"}, "tokenizer": {"name": "bytes"}, "seq_len": 128},
        "model": {"name": "transformer"},
        "optim": {"name": "adamw", "schedule": {"name": "constant"}},
        "train": {"steps": 100},
    }
    return resolved(configs.ConfigDict(base), SMALL | changes)


def plan(hardware: str, **changes):
    target = topology.parse(hardware)
    topology.prepare(target)
    return compiling.compile_plan(small(**changes), target, effort="least")


@pytest.fixture(scope="module")
def on_cpu():
    return plan("cpu-8", **{"mesh.data": 2, "mesh.fsdp": 4})


def test_state_is_counted_exactly_and_in_parts(on_cpu):
    count, memory = on_cpu.params, on_cpu.memory
    # Norm scales are whole on each device; all else is split over fsdp=4.
    assert memory.params == pytest.approx(4 * count / 4, rel=0.02)
    assert memory.optimizer == pytest.approx(2 * memory.params, rel=1e-4)
    assert memory.arguments == pytest.approx(memory.params + memory.optimizer + memory.other)
    assert memory.peak == memory.arguments + memory.temporaries
    assert on_cpu.fits
    assert memory.limit is None


def test_flops_of_the_compiled_step_are_those_of_the_model(on_cpu):
    # Attention in blocks computes a little more than the causal half, and is done again backward.
    assert 1.0 < on_cpu.overhead < 1.15
    assert on_cpu.model_flops * 8 == pytest.approx(
        6 * on_cpu.tokens * (on_cpu.params - 512 * 256), rel=0.15
    )


def test_communication_names_its_axes(on_cpu):
    kinds = {(one.kind, one.axes) for one in on_cpu.traffic}
    assert ("all-gather", "fsdp") in kinds
    gradients = [one for one in on_cpu.traffic if one.kind == "all-reduce" and "data" in one.axes]
    assert sum(one.bytes for one in gradients) >= on_cpu.memory.params


def test_the_report_reads_and_the_json_is_plain(on_cpu):
    text = report.text(on_cpu, None)
    for word in ("FITS", "optimizer state", "all-gather", "fsdp", "params/layers", "no time"):
        assert word in text
    data = json.loads(json.dumps(compiling.to_json(on_cpu)))
    assert data["fits"] is True
    assert data["run_id"] == configs.fingerprint(small(**{"mesh.data": 2, "mesh.fsdp": 4}))


def test_the_fingerprint_follows_config_hardware_and_code(monkeypatch):
    config, target = small(), topology.parse("cpu-8")
    first = compiling.fingerprint(config, target)
    assert compiling.fingerprint(small(), target) == first
    assert compiling.fingerprint(small(**{"mesh.fsdp": 2}), target) != first
    assert compiling.fingerprint(config, topology.parse("cpu-4")) != first
    monkeypatch.setattr(provenance, "code_digest", lambda: "other")
    assert compiling.fingerprint(config, target) != first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mesh.fsdp": 4, "mesh.data": 2, "train.batch_size": 12},
            ["train.batch_size", "mesh.fsdp=4"],
        ),
        ({"mesh.tensor": 8}, ["model.num_heads", "mesh.tensor=8"]),
        ({"mesh.fsdp": 3}, ["mesh", "3 devices"]),
        (
            {
                "mesh.fsdp": 8,
                "mesh.data": 1,
                "model.mlp_dim": 100,
                "model.model_dim": 100,
                "model.head_dim": 64,
            },
            ["embedding", "embed", "mesh axis fsdp of size 8"],
        ),
    ],
)
def test_what_cannot_be_split_is_named(changes, words):
    with pytest.raises(ConfigError) as error:
        plan("cpu-8", **changes)
    assert all(word in str(error.value) for word in words), str(error.value)


def needs_libtpu():
    pytest.importorskip(
        "libtpu", reason="the extra tpu, which brings the compiler, is not installed"
    )


def test_a_program_that_is_too_large_is_a_verdict_with_names():
    """The TPU compiler refuses within seconds; arrays that the layers keep are named."""
    needs_libtpu()
    found = plan(
        "v5e-4",
        **{
            "data.seq_len": 8192,
            "model.max_len": 8192,
            "train.batch_size": 512,
            "model.model_dim": 2048,
            "model.num_heads": 16,
            "mesh.fsdp": 4,
            "mesh.data": 1,
        },
    )
    assert not found.fits
    assert found.overflow.required > found.overflow.limit == pytest.approx(15.75 * 2**30)
    names = [one.name for one in found.largest]
    assert any(name.startswith("saved: layers/mlp") for name in names), names
    text = report.text(found, None)
    assert "DOES NOT FIT" in text
    assert "layers/mlp" in text


def test_a_tpu_slice_has_a_limit_kernels_and_a_time():
    needs_libtpu()
    found = plan("v5e-4", **{"mesh.fsdp": 4, "mesh.data": 1, "model.remat": "dots_attention"})
    assert found.fits
    assert found.memory.limit == pytest.approx(15.75 * 2**30)
    # Attention's result and normalisers are kept: no kernel runs a second time.
    assert found.work.kernels == {
        "splash_mha_fwd": 2.0,
        "splash_mha_dq": 2.0,
        "splash_mha_dkv": 2.0,
    }
    assert found.overhead == pytest.approx(1.0, abs=0.02)
    assert 0 < found.estimate.low < found.estimate.high


MEASURE = """
import ctypes, gc, sys
sys.path.insert(0, "tests/planning")
from scaling.planning import topology
target = topology.parse("cpu-1")
topology.prepare(target)
import jax, numpy as np
from scaling import configs, data, parallel
from scaling.planning import compile as compiling
from scaling.train.program import build_program

def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

config = configs.load_resolved(sys.argv[1], sys.argv[2:])
plan = compiling.compile_plan(config, target)
mesh = parallel.make_mesh(config.mesh, jax.devices())
program = build_program(config, data.describe(config), mesh)
step, state, hparams = program.lower_step().compile(), program.fresh_state(), program.hparams()
batch = {k: jax.device_put(np.zeros(v.shape, v.dtype)) for k, v in program.train_batch.items()}
for _ in range(2):
    jax.block_until_ready((state, batch))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts again
    before = resident("VmRSS")
    state, _ = step(state, batch, hparams)
    jax.block_until_ready(state)
measured = resident("VmHWM") - before + plan.memory.arguments
print(plan.memory.peak, measured)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc of Linux")
def test_the_peak_of_a_cpu_run_is_as_planned():
    """Resident memory of a real step over what was there before, in a process of its own."""
    command = [
        sys.executable,
        "-c",
        MEASURE,
        "experiments/quickstart.py",
        "train.batch_size=64",
        "model.num_layers=2",
    ]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    planned, measured = map(float, output.split()[-2:])
    assert planned > 200 * 2**20
    assert planned == pytest.approx(measured, rel=0.1)
