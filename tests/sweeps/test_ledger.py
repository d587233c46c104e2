"""States from what lies on disk: summary first, then leases, then the ledger, torn or not."""

import json
import threading

import pytest
from sweep_helpers import BASE, claimed

from scaling import configs
from scaling.sweeps import Sweep, design, lease, ledger, seeds, sweep_dir
from scaling.track import files


@pytest.fixture
def sweep(tmp_path):
    return claimed(tmp_path / "six", seeds(6))


def ends(sweep, cell, status):
    files.write_json(sweep.cell_dir(cell) / "summary.json", {"status": status})


def test_each_state_comes_from_its_own_witness(sweep):
    book = ledger.Ledger(sweep)
    done, broken, dead, asleep, busy, fresh = sweep.ids
    ends(sweep, done, "completed")  # and its line of the ledger was lost
    ends(sweep, broken, "diverged")
    for attempt in (1, 2, 3):
        book.append(dead, attempt, "failed", reason="ValueError: no")
    book.append(asleep, 1, "preempted")
    ends(sweep, asleep, "preempted")
    held = lease.take(sweep.path / "leases", busy)
    found = book.states(3)
    assert list(found.values()) == [
        *("completed", "diverged", "failed", "preempted", "running", "pending")
    ]
    assert book.states(4)[dead] == "pending"
    held.release("preempted")
    assert book.states(3)[busy] == "pending"
    assert fresh in found
    assert ledger.counts(found).startswith("1 completed, 1 running, 1 pending")


def test_a_vanished_process_is_no_failure_until_it_is_a_habit(sweep):
    book = ledger.Ledger(sweep)
    cell = sweep.ids[0]
    book.append(cell, 1, "running")
    assert book.states(3)[cell] == "preempted"
    for attempt in range(ledger.LOST_LIMIT):
        book.append(cell, attempt, "lost")
    assert book.states(3)[cell] == "failed"


def test_an_end_that_was_not_written_down_is_written_once(sweep):
    book = ledger.Ledger(sweep)
    cell = sweep.ids[0]
    book.append(cell, 1, "running")
    ends(sweep, cell, "completed")
    for _ in range(2):
        book.settle()
    assert [one["event"] for one in book.read()] == ["running", "completed"]
    held = lease.take(sweep.path / "leases", sweep.ids[1])
    ends(sweep, sweep.ids[1], "completed")  # its holder lives and will say so itself
    book.settle()
    held.release("completed")
    assert len(book.read()) == 2


def test_a_torn_last_line_is_left_out_and_then_cut(sweep):
    book = ledger.Ledger(sweep)
    book.append("a", 1, "running")
    with open(book.path, "ab") as file:
        file.write(b'{"cell": "a", "ev')
    assert [one["event"] for one in book.read()] == ["running"]
    book.append("a", 1, "completed")
    assert [one["event"] for one in book.read()] == ["running", "completed"]


@pytest.mark.parametrize("line", [b"rubbish\n", b"[1]\n", b'{"cell": "a"}\n'])
def test_damage_before_the_end_is_named(sweep, line):
    book = ledger.Ledger(sweep)
    book.append("a", 1, "running")
    book.path.write_bytes(book.path.read_bytes() + line + line)
    with pytest.raises(ledger.LedgerError, match=r"ledger.jsonl:2 .* delete that line"):
        book.read()


def test_many_writers_lose_no_line(sweep):
    book = ledger.Ledger(sweep)

    def write(name):
        for attempt in range(25):
            ledger.Ledger(sweep).append(name, attempt, "running")

    threads = [threading.Thread(target=write, args=(str(i),)) for i in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(book.read()) == 100


def test_a_directory_is_one_sweeps_and_may_grow(sweep):
    def cells(count, first=0):
        return design.cells(Sweep(BASE, seeds(count, first), "six"))[0]

    assert sweep_dir.check_claim(sweep.path, cells(6)) == []
    assert "grown from 6 to 8" in sweep_dir.check_claim(sweep.path, cells(8))[0]
    with pytest.raises(configs.ConfigError, match="belongs to another sweep"):
        sweep_dir.claim(sweep.path, "six", cells(6, first=1))
    assert sweep_dir.open_sweep(sweep.path).ids == sweep.ids
    (sweep.path / "sweep.json").write_text("{")
    with pytest.raises(configs.ConfigError, match="is damaged"):
        sweep_dir.open_sweep(sweep.path)


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(configs.ConfigError, match="is not the directory of a sweep"):
        sweep_dir.check_claim(tmp_path, [])
    with pytest.raises(configs.ConfigError, match=r"holds no sweep\.json"):
        sweep_dir.open_sweep(tmp_path)


def test_settings_without_effect_may_change_between_launches(sweep):
    def cells(every):
        base = configs.with_values(BASE, {"track.every": every})
        return design.cells(Sweep(base, seeds(6), "six"))[0]

    ends(sweep, sweep.ids[1], "completed")
    again = sweep_dir.claim(sweep.path, "six", cells(7))
    assert sweep.cell(sweep.ids[1]).config.track.every != 7, "what has ended stays as it was"
    assert again.ids == sweep.ids
    assert sweep.cell(sweep.ids[0]).config.track.every == 7
    text = (sweep.cell_dir(sweep.ids[0]) / "config.json").read_text()
    assert json.loads(text)["track"]["every"] == 7
