"""Where a run comes from."""

import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT
from ml_collections import ConfigDict

from scaling import configs
from scaling.track import files, provenance
from scaling.track.run_dir import RunDir


def test_provenance_of_a_dirty_checkout(tmp_path: pathlib.Path) -> None:
    assert provenance.git_state(tmp_path) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "f").write_text("1")
    for arguments in (["init", "-q"], ["add", "f"], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    clean = provenance.git_state(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], clean["diff_sha256"]) == (False, None)
    (tmp_path / "f").write_text("2")
    dirty = provenance.git_state(tmp_path)
    assert dirty is not None
    assert dirty["commit"] == clean["commit"]
    assert dirty["dirty"]
    (tmp_path / "f").write_text("3")
    assert provenance.git_state(tmp_path) != dirty


def test_provenance_holds_no_secrets_and_starts_no_backend() -> None:
    found = provenance.environment(
        {"JAX_X": "1", "SCALING_API_KEY": "s", "HOME": "/", "XLA_FLAGS": "f"}
    )
    assert found == {"JAX_X": "1", "XLA_FLAGS": "f"}
    script = (
        "import sys\nfrom scaling.track import provenance\n"
        "r = provenance.collect(); assert 'jax' in r['versions'], r\n"
        "assert not any(m.split('.')[0] in ('jax', 'tensorflow') for m in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_the_code_digest_follows_every_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A mended bug of the planner makes another digest, so that no cached report survives it."""
    for name in ("track/provenance.py", "planning/roofline.py", "configs/rules.py"):
        files.write_text(tmp_path / name, "")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "track" / "provenance.py"))
    seen = {provenance.code_digest()}
    for name in ("planning/roofline.py", "configs/rules.py", "track/hardware.py"):
        files.write_text(tmp_path / name, "mended = True\n")
        seen.add(provenance.code_digest())
    assert len(seen) == 4


def test_changes_are_of_what_can_change_the_numbers() -> None:
    cpu = {"platform": "cpu", "kinds": {"cpu": 1}, "cores": 2}
    before = {
        "versions": {"jax": "0.9"},
        "devices": cpu,
        "environment": {"XLA_FLAGS": "--a", "SLURM_JOB_ID": "1"},
    }
    now = {
        "versions": {"jax": "0.10"},
        "devices": {**cpu, "cores": 4},
        "environment": {"SLURM_JOB_ID": "2", "JAX_ENABLE_X64": "1", "GLIBC_TUNABLES": "glibc.a=1"},
    }
    assert provenance.changes(before, before) == []
    assert provenance.changes(before, now) == [
        "jax: 0.9 -> 0.10",
        "CPU cores: 2 -> 4",
        "XLA_FLAGS: --a -> none",
        "JAX_ENABLE_X64: none -> 1",
    ]
    gpus = {"platform": "gpu", "kinds": {"H100": 8}, "cores": 4}
    found = provenance.changes({"devices": gpus}, {"devices": {**gpus, "cores": 16}})
    assert found == [], "cores decide nothing on an accelerator"


def test_a_start_on_other_cores_is_told(tmp_path: pathlib.Path) -> None:
    start = provenance.collect(["prog"])
    start["devices"] = {"platform": "cpu", "kinds": {"cpu": 1}, "cores": 2}
    other = {**start, "devices": {**start["devices"], "cores": 1}}
    text = configs.to_json(ConfigDict({"name": "x"}))
    for now, words in ((start, ()), (start, ()), (other, ("bit for bit", "CPU cores: 2 -> 1"))):
        with RunDir(tmp_path / "run", text, "f", now) as run:
            assert bool(run.notes) == bool(words)
            assert all(word in run.notes[0] for word in words)
