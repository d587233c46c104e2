"""A new mesh axis is one line of roles and one field: nothing else names the axes one by one."""

import pathlib
import subprocess
import sys

from helpers import ROOT

AXES = ROOT / "scaling" / "parallel" / "axes.py"
TREE = ROOT / "scaling" / "experiment.py"

SCRIPT = """
import importlib.util, sys
for name, path in (("scaling.experiment", sys.argv[1]), ("scaling.parallel.axes", sys.argv[2])):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)

from helpers import TEXT_INFO, tiny_language_model
import jax, scaling.parallel as parallel
from scaling.planning.compile import compile_plan
from scaling.planning.topology import parse
from scaling.train.program import build_program

changes = {"mesh.data": 2, "mesh.expert": 2, "mesh.fsdp": 2, "mesh.large_bytes": 1024}
changes |= {"mesh.rules": (("mlp", "expert"),), "model.vocab_size": 320}
config = tiny_language_model(**changes)
mesh = parallel.make_mesh(config.mesh)
assert mesh.shape["expert"] == 2
program = build_program(config, TEXT_INFO, mesh)
rows = {row.path: row for row in program.audit}
up = rows["params/layers/mlp/up/kernel"]
assert "expert" in up.spec and up.bytes == 4 * up.bytes_per_device, up
program.lower_step().compile()
plan = compile_plan(config, parse("cpu-8"))
assert plan.mesh["expert"] == 2, plan.mesh
print("planned", plan.memory.peak)
"""


def test_a_fake_axis_is_lowered_audited_and_planned(tmp_path: pathlib.Path) -> None:
    role, field = '    "tensor": ("parameters",),\n', "    tensor: AxisSize = 1\n"
    paths = []
    for path, line, new in (
        (TREE, field, "    expert: AxisSize = 1\n"),
        (AXES, role, '    "expert": ("parameters",),\n'),
    ):
        source = path.read_text()
        assert source.count(line) == 1
        paths.append(tmp_path / path.name)
        paths[-1].write_text(source.replace(line, line + new))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, paths)],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "planned" in done.stdout
