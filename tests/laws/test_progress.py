"""A sign of life from long fits."""

import io
import re
import time

from laws.law_data import surface

from scaling.laws import bootstrap, fit, progress


def test_a_long_step_is_told_again_and_again_and_a_short_one_is_not():
    stream = io.StringIO()
    with progress.shown(stream, seconds=0.05):
        with progress.step("short"):
            pass
        with progress.step("long"):
            progress.expect(4)
            progress.tick()
            time.sleep(0.3)
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"long: 25%, 0 s"}


def test_a_bootstrap_counts_what_it_has_done(noisy):
    stream = io.StringIO()
    with progress.shown(stream, seconds=0.01), progress.step("bootstrap"):
        bootstrap(noisy, 400)
    shares = [int(s) for s in re.findall(r"bootstrap: (\d+)%", stream.getvalue())]
    assert max(shares) > 0


def test_a_library_call_says_nothing(capsys):
    fit(surface(), "chinchilla")
    with progress.step("nobody listens"):
        progress.tick()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
