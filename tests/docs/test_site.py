"""The documentation builds without a warning: no dead link, no missing name of the reference."""

import shutil
import subprocess
import sys

import pytest
from helpers import ROOT


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("zensical", reason="needs the extra docs: pip install 'scaling[docs]'")
    for name in ("docs", "zensical.toml"):
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / name)
    (tmp_path / "scaling").symlink_to(ROOT / "scaling")
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "site" / "howto" / "own-model" / "index.html").exists()
