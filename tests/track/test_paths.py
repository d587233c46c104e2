"""Where the caches are, with and without a home directory."""

import pathlib
import pwd

import pytest

from scaling.track import compile_cache, machine, paths


def test_the_variable_then_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    home = pathlib.Path("/home/someone")
    for stated, root in (
        ("/somewhere", pathlib.Path("/somewhere")),
        ("~/there", home / "there"),
        ("", home / ".cache" / "scaling"),
    ):
        monkeypatch.setenv("SCALING_CACHE", stated)
        assert paths.cache_root() == root
    monkeypatch.delenv("SCALING_CACHE")
    assert paths.cache_root() == home / ".cache" / "scaling"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert paths.compile_cache() == paths.cache_root() / "jax"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/compiled")
    assert paths.compile_cache() == pathlib.Path("/compiled")


def test_no_home_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose user id has no passwd entry."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "SCALING_CACHE", "JAX_COMPILATION_CACHE_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match=r"SCALING_CACHE: .*no home directory; set SCALING_CAC"):
        paths.cache_root()
    told = compile_cache.enable()
    assert told is not None
    assert told.startswith("no compile cache: SCALING_CACHE")
    found = {path["name"]: path for path in machine.paths()}
    for name in ("SCALING_CACHE", "TFDS_DATA_DIR"):
        (path,) = [path for key, path in found.items() if name in key]
        assert not path["writable"]
        assert "no home directory" in path["error"]
    with pytest.raises(RuntimeError, match=r"data\.cache_dir: ~/x cannot be found"):
        paths.expand("~/x", "data.cache_dir")


def test_every_variable_of_a_folder_follows_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for name, folder in (
        ("SCALING_CACHE", paths.cache_root),
        ("JAX_COMPILATION_CACHE_DIR", paths.compile_cache),
        ("TFDS_DATA_DIR", paths.tfds_root),
    ):
        monkeypatch.setenv(name, "~/x")
        assert folder() == pathlib.Path("/home/someone/x")


@pytest.mark.parametrize(
    "variable", ["SCALING_CACHE", "JAX_COMPILATION_CACHE_DIR", "TFDS_DATA_DIR"]
)
def test_a_url_is_no_place_here(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "gs://bucket/folder")
    told = [place["error"] for place in machine.paths() if "error" in place]
    assert any(text.startswith(f"{variable}: gs://bucket/folder is a URL") for text in told)
    with pytest.raises(paths.PathError, match=r"is a URL.*mount the bucket"):
        paths.expand("s3://b/x", "data.cache_dir")
