"""The run directory: whose it is, what it records, who may write."""

import json
import math
import pathlib

import pytest
from helpers import tiny_language_model
from ml_collections import ConfigDict

from scaling import configs
from scaling.track import files, provenance
from scaling.track.run_dir import (
    SUMMARY,
    RunDir,
    RunDirError,
    UsedDevices,
    find_runs,
    read_run,
)


def config_text(**changes: object) -> str:
    return configs.to_json(ConfigDict({"name": "x", "optim": {"learning_rate": 0.1}, **changes}))


def test_layout_and_attempts(tmp_path: pathlib.Path) -> None:
    work = tmp_path / "a" / "run"
    start = provenance.collect(["prog", "--x"])
    with RunDir(work, config_text(), "f1", start) as run:
        assert (run.attempt, run.notes) == (1, [])
        assert not read_run(work).summary
        files.write_json(work / SUMMARY, {"status": "completed", "loss": float("nan")})
    with RunDir(work, config_text(name="y"), "f1", start) as run:
        assert run.attempt == 2
        assert "settings changed" in run.notes[0]
        assert "name" in run.notes[0]
    record = json.loads((work / "provenance.json").read_text())
    assert record["fingerprint"] == "f1"
    assert [a["argv"] for a in record["attempts"]] == [["prog", "--x"]] * 2
    assert record["attempts"][1]["config_changes"]
    assert (work / "config.json").read_text() == config_text(name="y")
    summary = read_run(work).summary
    assert summary is not None
    assert summary["loss"] != summary["loss"]


def test_another_experiment_is_refused_with_the_difference(tmp_path: pathlib.Path) -> None:
    RunDir(tmp_path, config_text(), "f1", {}).close()
    changed = config_text(optim={"learning_rate": 0.3})
    with pytest.raises(RunDirError) as caught:
        RunDir(tmp_path, changed, "f2", {})
    for words in ("f1", "f2", "optim.learning_rate", "0.1", "0.3", "--workdir"):
        assert words in str(caught.value)
    assert (tmp_path / "config.json").read_text() == config_text()
    RunDir(tmp_path, config_text(), "f1", {}).close()


def test_a_run_of_before_keys_moved_goes_on(tmp_path: pathlib.Path) -> None:
    """By the fingerprint of its config as it is read today, not by the one that it recorded."""
    config = tiny_language_model()
    old = configs.plain(config)
    old["data"] |= old["data"].pop("text")
    del old["data"]["lanes"]  # came later
    old["train"] |= {"init_from": None, "init_from_map": (), "audit_bytes": 64 * 2**20}
    del old["mesh"]["large_bytes"]
    RunDir(tmp_path, configs.to_json(old), "of another layout", {}).close()
    with RunDir(tmp_path, configs.to_json(config), configs.fingerprint(config), {}) as run:
        assert run.attempt == 2
    other = configs.replace(config, {"data.text.seq_len": 8})
    RunDir(tmp_path / "b", configs.to_json(old), configs.fingerprint(other), {}).close()
    with pytest.raises(RunDirError, match=r"data\.text\.seq_len +16 +8"):
        RunDir(tmp_path / "b", configs.to_json(other), configs.fingerprint(other), {})


def test_strange_and_damaged_directories(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").touch()
    with pytest.raises(RunDirError, match=r"no provenance\.json"):
        RunDir(tmp_path / "a", config_text(), "f1", {})
    RunDir(tmp_path / "b", config_text(), "f1", {}).close()
    (tmp_path / "b" / "provenance.json").write_text("{")
    with pytest.raises(RunDirError, match=r"provenance.json is not valid JSON"):
        RunDir(tmp_path / "b", config_text(), "f1", {})
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="cannot be written to"):
        RunDir(tmp_path / "file", config_text(), "f1", {})


def test_the_facts_of_a_run(tmp_path: pathlib.Path) -> None:
    run = read_run(tmp_path)
    assert (run.summary, run.config, run.forecast, run.metrics) == ({}, {}, {}, [])
    assert (run.device, run.median("perf/step_seconds"), run.objective) == (None, None, "loss")
    start = {"devices": {"platform": "cpu", "kinds": {"cpu": 2}, "cores": 1}}
    files.write_json(tmp_path / "provenance.json", {"attempts": [{"devices": None}, start]})
    files.write_json(tmp_path / "summary.json", {"eval": {"f1": float("nan")}, "objective": "f1"})
    lines = "".join(f'{{"step": {s}, "perf/x": {float(9 // s)}}}\n' for s in (1, 2, 3, 4))
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 5, "perf')
    run = read_run(tmp_path)
    assert str(run.device) == "2 x cpu with 1 core"
    assert run.device == UsedDevices("cpu", 2, 1)
    assert run.median("perf/x") == 3.0
    assert run.objective == "f1"
    assert math.isnan(run.summary["eval"]["f1"])
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(RunDirError, match=r"config\.json is not a JSON object"):
        _ = run.config
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(RunDirError, match=r"data\.json is not valid JSON"):
        _ = run.data


def test_runs_are_found_through_links_once_and_without_loops(tmp_path: pathlib.Path) -> None:
    for folder in ("away/far", "here/z/run", "here/not_ended"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("away/far", "here/z/run"):
        files.write_json(tmp_path / folder / "summary.json", {})
    here = tmp_path / "here"
    (here / "a_link_to_z").symlink_to(here / "z")
    (here / "up").symlink_to(tmp_path)
    (here / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "root").symlink_to(here)
    for root in (here, tmp_path / "root"):
        found = [run.path.relative_to(root) for run in find_runs(root)]
        assert found == [pathlib.Path("up/away/far"), pathlib.Path("z/run")]
