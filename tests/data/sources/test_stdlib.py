import os
import subprocess
import sys

from scaling.data.sources.stdlib import Stdlib


def test_is_some_megabytes_of_different_documents(tmp_path):
    texts = list(Stdlib().documents())
    assert 2_000_000 < sum(map(len, texts)) <= 4_000_000
    assert len(set(texts)) > 100
    assert all(texts)


def test_is_the_same_in_every_process(tmp_path):
    program = (
        "import pathlib; from scaling.data.sources.stdlib import Stdlib;"
        "print(Stdlib(max_bytes=200_000).fingerprint(pathlib.Path('.')))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "17"}
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert out.stdout.strip() == Stdlib(max_bytes=200_000).fingerprint(tmp_path), out.stderr


def test_a_smaller_corpus_is_part_of_a_larger_one(tmp_path):
    small = set(Stdlib(max_bytes=100_000).documents())
    large = set(Stdlib(max_bytes=1_000_000).documents())
    assert small < large
    assert sum(map(len, small)) <= 100_000
    assert Stdlib(max_bytes=1).fingerprint(tmp_path) != Stdlib().fingerprint(tmp_path)
