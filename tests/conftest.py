"""Shared set-up of the tests: eight fake CPU devices, one compile cache, strict broadcasting.

Most of the suite's time goes into compiling tiny programs, so the default tests compile without
LLVM's optimisation and with XLA's older emitter of fused loops, which takes a third of the time each.
`--slow` compiles as a user's run does, and `same_bits` a module.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

from scaling.track.allocator import TUNABLES

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("SCALING_TEST_CACHE", ROOT / ".cache" / "tests"))

# These must be in place before JAX starts a backend; child processes of tests inherit them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("GLIBC_TUNABLES", TUNABLES)  # so that no child starts itself again
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# The older emitter of fused loops compiles a step in a third of the time (see `same_bits`). The XLA of
# JAX 0.12 has no such choice, and a flag that it does not know ends the process.
OLDER_EMITTER = "xla_cpu_use_fusion_emitters" if jax.__version_info__ < (0, 11) else ""
QUICK_COMPILES = "--xla_backend_optimization_level=0 --xla_cpu_opt_preset=FAST_COMPILE"
if OLDER_EMITTER:
    QUICK_COMPILES += f" --{OLDER_EMITTER}=false"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--slow") and QUICK_COMPILES not in os.environ["XLA_FLAGS"]:
        os.environ["XLA_FLAGS"] += f" {QUICK_COMPILES}"


@pytest.fixture(scope="module")
def same_bits() -> Iterator[None]:
    """Compiles as a user's run does, for tests that compare the bits of two different programs.

    The older emitter rounds the same sum differently in the last place where it stands in another loop.
    """
    if not OLDER_EMITTER:
        yield
        return
    plain = jax.stages.Lowered.compile

    def compile_(self: jax.stages.Lowered, compiler_options: dict | None = None) -> Any:
        return plain(self, {OLDER_EMITTER: True, **(compiler_options or {})})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", compile_)
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
