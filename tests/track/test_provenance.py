"""Where a run comes from."""

import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT

from scaling.track import files, provenance


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
