"""Sealed files: what was forecast before a run, and edits of it."""

import math

import pytest

from scaling.track import sealed
from scaling.track.run_dir import RunDir, read_run


def test_what_was_written_is_read_infinities_too(tmp_path):
    written = sealed.write(tmp_path / "f", {"low": -math.inf, "value": 1.5})
    content = sealed.read(tmp_path / "f")
    assert content == {"low": -math.inf, "value": 1.5, "sha256": written["sha256"]}


def test_a_run_records_the_seal_before_it_starts(tmp_path):
    written = sealed.write(tmp_path / sealed.FORECAST, {"fingerprint": "f", "quantities": {}})
    with RunDir(tmp_path, "{}", "f", {"time": "now"}):
        pass
    assert read_run(tmp_path).provenance["forecast"] == written["sha256"]
    # A later start keeps what the first one saw.
    sealed.write(tmp_path / sealed.FORECAST, {"fingerprint": "f", "quantities": {"new": 1}})
    with RunDir(tmp_path, "{}", "f", {"time": "now"}):
        assert read_run(tmp_path).provenance["forecast"] == written["sha256"]


@pytest.mark.parametrize("damage", ["another run", "edited"])
def test_a_run_refuses_to_start_on_a_forecast_that_is_not_its_own(tmp_path, damage):
    sealed.write(tmp_path / sealed.FORECAST, {"fingerprint": "other", "value": 1.0})
    if damage == "edited":
        path = tmp_path / sealed.FORECAST
        path.write_text(path.read_text().replace("1.0", "2.0"))
    with pytest.raises(sealed.SealError, match="changed" if damage == "edited" else "another exp"):
        RunDir(tmp_path, "{}", "f", {"time": "now"})
    assert not (tmp_path / "provenance.json").exists()
