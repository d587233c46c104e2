"""Progress: what is said, how often, and by whom."""

import io
import logging
import os
import time

import pytest

from scaling.track.progress import ProgressReport, duration, quantity


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_words() -> None:
    seconds = (None, 5, 187, 7500, 277000)
    assert " ".join(duration(s) for s in seconds) == "? 5 s 3:07 2:05:00 3 d 04 h"
    values = (0.5, 950, 12345, 4.56e6, 3e12)
    assert " ".join(quantity(v) for v in values) == "0.5 950 12.3k 4.56M 3T"


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    out = io.StringIO()
    with ProgressReport(100, "tokens", seconds=5, out=out) as report:
        for step in (1, 2, 3, 51, 100):
            report.update(step, 2.5, 1234.0 if step > 1 else None)
            now += 2
        report.say("eval/loss 2.1")
    assert out.getvalue().splitlines() == [
        "step 1/100  loss 2.5000  left ?",
        "step 51/100  loss 2.5000  1.23k tokens/s  left 5 s",
        "step 100/100  loss 2.5000  1.23k tokens/s  left 0 s",
        "eval/loss 2.1",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with ProgressReport(10, "tokens", out=out) as report:
        report.update(5, 2.5, 1000.0)
        report.say("a [line] that stays")
        report.update(10, 2.25, 1000.0)
    text = out.getvalue()
    assert "a [line] that stays" in text
    assert "10/10" in text
    assert "loss 2.2500" in text


def test_what_a_data_source_logs_is_a_line_of_the_run() -> None:
    out, log = io.StringIO(), logging.getLogger("scaling.data.cache")
    with ProgressReport(10, "tokens", out=out):
        log.info("waiting for %s", "another process")
    log.info("after the run")
    assert out.getvalue() == "waiting for another process\n"


@pytest.mark.parametrize("options", [{"main": False}, {"mode": "off"}])
def test_others_are_silent(options: dict) -> None:
    out = io.StringIO()
    with ProgressReport(10, "tokens", out=out, **options) as report:
        report.update(5, 2.5, 1000.0)
        report.say("x")
        logging.getLogger("scaling.data").warning("x")
    assert out.getvalue() == ""


def test_a_reader_that_is_gone_ends_the_lines_and_not_the_run() -> None:
    """As the `tee` that Ctrl-C ends together with the run."""
    reader, writer = os.pipe()
    # Closing it writes what is left in the buffer: this must not fail the end of the process either.
    with open(writer, "w") as out, ProgressReport(10, "tokens", "lines", seconds=0, out=out) as run:
        run.update(1, 2.5, None)
        assert os.read(reader, 100) == b"step 1/10  loss 2.5000  left ?\n"
        os.close(reader)
        run.update(2, 2.5, None)
        run.say("stopped before the end; the same command goes on from here")
