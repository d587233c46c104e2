"""A run on CPU starts itself again under glibc's settings, unless the user chose others."""

import json
import sys

import pytest
from run_helpers import command, corpus, environment, run

from scaling.track import allocator, machine

SHORT = ("--config.train.steps=6", "--config.eval.every=6", "--config.track.progress=off")


@pytest.mark.skipif(sys.platform != "linux" or machine.device_files() != [], reason="not for CPU")
@pytest.mark.parametrize(
    "given", ["", "glibc.malloc.check=0", "glibc.rtld.optional_static_tls=512"]
)
def test_a_run_on_cpu_sets_the_allocator_unless_the_user_did(given, tmp_path) -> None:
    run(
        command(corpus(tmp_path), tmp_path / "run", *SHORT),
        environment(GLIBC_TUNABLES=given),
    )
    told = json.loads((tmp_path / "run" / "provenance.json").read_text())["attempts"][0]
    wanted = {
        "": allocator.TUNABLES,
        "glibc.rtld.optional_static_tls=512": f"glibc.rtld.optional_static_tls=512:{allocator.TUNABLES}",
    }
    assert told["environment"]["GLIBC_TUNABLES"] == wanted.get(given, given)


def test_a_program_that_imports_us_is_not_started_again(monkeypatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("it was"))
    allocator.restart()


PROGRAM = """
import sys
import jax
from scaling.main import main

assert main(sys.argv[1:]) == 0
work = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: y @ x, x))
x = jax.numpy.eye(300)
work(x).block_until_ready()
print("it is done" if work(x).is_ready() else "it still runs")
"""


def test_on_cpu_a_step_runs_in_the_thread_that_asks_for_it(tmp_path) -> None:
    """glibc keeps the large buffers of the first thread alone."""
    arguments = command(corpus(tmp_path), tmp_path / "run", *SHORT)
    arguments = arguments[3:]  # without "python -m scaling.main"
    assert run([sys.executable, "-c", PROGRAM, *arguments]).count("it is done") == 1
