"""Small helpers shared by tests."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Real data lives beside the checkout, not in it: see the README's section on data for tests.
SHARED = pathlib.Path(os.environ.get("SCALING_SHARED", ROOT.parent / "shared"))


def shared(*parts: str) -> pathlib.Path:
    """Path below the shared data folder; skips the test, with the reason, where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        if os.environ.get("CI"):
            raise FileNotFoundError(f"CI must have {path}")
        pytest.skip(f"{path} is not on this machine")
    return path
