import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from data_helpers import data_config, some_texts, write_documents
from helpers import shared

from scaling import data
from scaling.configs import ConfigError
from scaling.data import DataError


@pytest.fixture
def files(tmp_path):
    return {"name": "files", "paths": (str(write_documents(tmp_path / "a.jsonl", some_texts(80))),)}


def assert_same_info(described, built):
    """What is said beforehand is what comes."""
    for field in ("kind", "unit", "spec", "vocab_size", "separator", "num_classes", "image_shape"):
        assert getattr(described, field) == getattr(built, field)
    assert described.entropy_rate == built.entropy_rate


def assert_fits(info, loader):
    batch = loader.batch(0, 0, loader.batch_size)
    assert set(batch) == set(info.spec)
    for key, (shape, dtype) in info.spec.items():
        assert batch[key].shape == (loader.batch_size, *shape)
        assert batch[key].dtype == dtype


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    "tokenizer", [{"name": "bytes"}, {"name": "bpe", "vocab_size": 300}], ids=["bytes", "bpe"]
)
def test_text(files, tmp_path, tokenizer, masked):
    config = data_config(source=files, tokenizer=tokenizer, seq_len=16, mask_documents=masked)
    info = data.describe(config)
    built = data.build(config, tmp_path)
    assert_same_info(info, built.info)
    assert_fits(built.info, built.train)
    assert built.info.token_bytes.shape == (built.info.vocab_size,)
    assert built.info.token_bytes[built.info.separator] == 0
    assert ("segments" in built.info.spec) == masked
    assert built.sizes["train_documents"] + built.sizes["eval_documents"] == 80
    split = built.evals["eval"]
    batches = [split.batch(i, 4, 0, 4) for i in range(split.num_batches(4))]
    targets = np.concatenate([b["targets"][b["weights"] > 0] for b in batches])
    assert built.info.token_bytes[targets].sum() == built.sizes["eval_bytes"]
    assert len(targets) == built.sizes["eval_tokens"] - 1


def test_train_and_eval_share_no_document(tmp_path):
    # Documents carry their number; no number is seen on both sides.
    texts = [f"<{i}> is all there is to say" for i in range(200)]
    path = write_documents(tmp_path / "a.jsonl", texts)
    source = {"name": "files", "paths": (str(path),)}
    config = data_config(source=source, seq_len=512, eval_fraction=0.2, on_end="stop")
    built = data.build(config, tmp_path)

    def numbers(batches):
        text = b"".join(
            b["targets"][b["weights"] > 0].clip(0, 255).astype(np.uint8).tobytes() for b in batches
        )
        return {part.split(b">")[0] for part in text.split(b"<")[1:]}

    train, split = built.train, built.evals["eval"]
    a = numbers(train.batch(step, 0, 4) for step in range(train.num_steps))
    b = numbers(split.batch(i, 4, 0, 4) for i in range(split.num_batches(4)))
    assert not a & b
    assert len(a | b) == 200
    assert len(b) > 15


def test_shakespeare_is_split_as_nanogpt_does(tmp_path):
    path = shared("data", "tinyshakespeare", "input.txt")
    text = path.read_text()
    source = {"name": "files", "paths": (str(path),)}
    built = data.build(data_config(source=source, seq_len=64, on_end="stop"), tmp_path)
    head = int(0.9 * len(text))
    assert built.sizes["train_tokens"] == head == 1_003_854
    assert built.sizes["eval_tokens"] == 111_540
    split = built.evals["eval"]
    batches = [split.batch(i, 100, 0, 100) for i in range(split.num_batches(100))]
    targets = np.concatenate([b["targets"][b["weights"] > 0] for b in batches])
    assert bytes(targets.astype(np.uint8)).decode() == text[head + 1 :]


def test_a_mixture_takes_its_shares_and_evaluates_each_member(tmp_path):
    mixture = {}
    for name, word, weight in (("x", "xxxx", 3.0), ("y", "yyyy", 1.0)):
        path = write_documents(tmp_path / f"{name}.jsonl", [f"{word}{i:04}" for i in range(400)])
        source = {"name": "files", "paths": (str(path),)}
        mixture[name] = {"source": source, "weight": weight}
    config = data_config(mixture=mixture, seq_len=8, batch_size=8)
    assert_same_info(data.describe(config), data.build(config, tmp_path).info)
    built = data.build(config, tmp_path)
    assert_fits(built.info, built.train)
    for step in range(10):
        batch = built.train.batch(step, 0, 8)
        is_y = (batch["inputs"] == ord("y")).any(axis=1)
        is_x = (batch["inputs"] == ord("x")).any(axis=1)
        assert (is_x.sum(), is_y.sum()) == (6, 2)
    assert list(built.evals) == ["eval", "eval_x", "eval_y"]
    assert len(built.evals["eval"]) == len(built.evals["eval_x"]) + len(built.evals["eval_y"])
    ends = data_config(mixture=mixture, seq_len=8, batch_size=8, on_end="stop")
    assert data.build(ends, tmp_path).train.num_steps is not None


def test_a_document_held_out_of_one_member_is_not_trained_on_in_another(tmp_path):
    texts = some_texts(40)
    first = write_documents(tmp_path / "a.jsonl", texts[:30])
    held = write_documents(tmp_path / "held.jsonl", texts[30:])
    second = write_documents(tmp_path / "b.jsonl", texts[20:])
    mixture = {
        "a": {"source": {"name": "files", "paths": (str(first),), "eval_paths": (str(held),)}},
        "b": {"source": {"name": "files", "paths": (str(second),)}},
    }
    built = data.build(data_config(mixture=mixture, seq_len=8, eval_fraction=0.0), tmp_path)
    assert built.sizes["train_documents"] == 30 + 10


def test_another_eval_source(files, tmp_path):
    other = write_documents(tmp_path / "other.jsonl", ["zz"] + some_texts(80)[:10])
    config = data_config(
        source=files, eval_source={"name": "files", "paths": (str(other),)}, seq_len=16
    )
    built = data.build(config, tmp_path)
    assert built.sizes["eval_documents"] == 11
    assert built.sizes["train_documents"] == 70  # the ten that are also held out are left out
    same = data_config(source=files, eval_source=files, seq_len=16)
    with pytest.raises(DataError, match="also in the held-out text"):
        data.build(same, tmp_path)


def test_nothing_held_out_and_limit(files, tmp_path):
    built = data.build(data_config(source=files, eval_fraction=0.0, seq_len=16), tmp_path)
    assert dict(built.evals) == {}
    config = data_config(source=files, eval_fraction=0.0, seq_len=16, limit=100, batch_size=3)
    limited = data.build(config, tmp_path).train
    assert limited.epoch(2) == 1.0  # 100 // 16 = 6 examples
    assert {i for s in range(8) for i in limited.indices(s)} == set(range(6))


def test_seeds(files, tmp_path):
    def order(**keywords):
        config = data_config(source=files, seq_len=16, batch_size=16, **keywords)
        return tuple(data.build(config, tmp_path).train.indices(0))

    assert order() == order()
    assert order(seed=1) != order()
    config = data_config(source=files, seq_len=16, batch_size=16, seed=5)
    pinned = dataclasses.replace(config, data=dataclasses.replace(config.data, seed=0))
    assert tuple(data.build(pinned, tmp_path).train.indices(0)) == order()
    assert tuple(data.build(config, tmp_path).train.indices(0)) != order()


def test_synthetic(tmp_path):
    config = data_config(source={"name": "synthetic_zipf"}, seq_len=64)
    built = data.build(config, tmp_path)
    assert_same_info(data.describe(config), built.info)
    assert_fits(built.info, built.train)
    assert built.info.entropy_rate == pytest.approx(0.82763, abs=1e-5)
    assert built.info.eval_entropy == pytest.approx(built.info.entropy_rate, abs=0.03)
    assert built.info.eval_entropy != built.info.entropy_rate
    assert len(built.evals["eval"]) == 2048
    assert not os.listdir(tmp_path)  # nothing is stored
    source, other = {"name": "synthetic_zipf"}, {"name": "stdlib"}
    with pytest.raises(DataError, match=r"leave data\.text\.tokenizer out"):
        data.describe(data_config(source=source, tokenizer={"name": "bpe"}))
    with pytest.raises(DataError, match=r"leave data\.eval_source out"):
        data.build(data_config(source=source, eval_source=other), tmp_path)
    for idle in ({"text": {"holdout": "documents"}}, {"eval_fraction": 0.5}):
        with pytest.raises(DataError, match=r"data\.(text\.holdout|eval_fraction)=.* does nothing"):
            data.describe(data_config(source=source, **idle))


def test_images(tmp_path):
    folder = str(shared("tensorflow_datasets"))
    source = {"name": "tfds", "dataset": "mnist", "split": "train[:400]", "data_dir": folder}
    with pytest.raises(
        DataError, match=r"data\.text\.seq_len=77 does nothing: .*tfds does not read it"
    ):
        data.describe(data_config(source=source, seq_len=77))
    config = data_config(source={**source, "eval_split": "test[:30]"}, batch_size=8)
    built = data.build(config, tmp_path)
    assert_same_info(data.describe(config), built.info)
    assert_fits(built.info, built.train)
    assert len(built.evals["eval"]) == 30
    held_out = data.build(data_config(source=source, limit=50), tmp_path)
    assert held_out.sizes == {"train_examples": 50, "eval_examples": 40}
    beside = {**source, "split": "train[:40]"}
    with pytest.raises(DataError, match="share records"):
        data.build(data_config(source=source, eval_source=beside), tmp_path)
    with pytest.raises(DataError, match="differ in kind or shape"):
        data.build(data_config(source=source, eval_source={"name": "stdlib"}), tmp_path)


def test_one_of_source_and_mixture():
    with pytest.raises(ConfigError, match=r"neither data\.source nor data\.mixture is set"):
        data.describe(data_config())
    source = {"name": "synthetic_zipf"}
    with pytest.raises(DataError, match="mixes sources of text"):
        data.describe(data_config(mixture={"a": {"source": source}}))
    mixture = {"a": {"source": source}, "b": {"source": {"name": "stdlib"}}}
    with pytest.raises(DataError, match="mixes sources of text"):
        data.describe(data_config(mixture=mixture))


DIGEST = """
import hashlib, sys
from data_helpers import data_config
from scaling import data
config = data_config(source={"name": "stdlib", "max_bytes": 200_000}, seq_len=64, batch_size=8)
train = data.build(config, sys.argv[1]).train
digest = hashlib.sha256()
for step in (0, 7, 1000):
    for key, value in sorted(train.batch(step, 0, 8).items()):
        digest.update(key.encode() + value.tobytes())
print(digest.hexdigest())
assert "jax" not in sys.modules and "tensorflow" not in sys.modules
"""


def test_every_process_sees_the_same_batches_and_imports_no_jax(tmp_path):
    found = set()
    for i in range(2):
        env = {**os.environ, "PYTHONPATH": "tests", "PYTHONHASHSEED": str(i)}
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        out = subprocess.run(
            [sys.executable, "-c", DIGEST, str(tmp_path / str(i))],
            capture_output=True,
            text=True,
            env=env,
            cwd=root,
        )
        assert out.returncode == 0, out.stderr
        found.add(out.stdout)
    assert len(found) == 1
    assert hashlib.sha256().hexdigest() not in found


def test_lanes(files, tmp_path):
    """Every row of the batch is one text, read window after window; so are those of an evaluation."""
    config = data_config(source=files, text={"seq_len": 16, "lanes": True})
    built = data.build(config, tmp_path)
    assert_fits(built.info, built.train)
    batches = [built.train.batch(step, 0, 4) for step in range(6)]
    for before, after in itertools.pairwise(batches):
        np.testing.assert_array_equal(after["inputs"][:, 0], before["targets"][:, -1])
    assert batches[1]["segments"].min() == 0
    split = built.evals["eval"]
    assert split.num_batches(3) > 3
    held_out = [split.batch(i, 3, 0, 3) for i in range(split.num_batches(3))]
    for before, after in itertools.pairwise(held_out):
        real = after["weights"][:, 0] > 0
        np.testing.assert_array_equal(after["inputs"][real, 0], before["targets"][real, -1])
    assert sum(b["weights"].sum() for b in held_out) == built.sizes["eval_tokens"] - 1


def test_lanes_of_a_mixture_are_refused(files, tmp_path):
    mixture = {"a": {"source": files}, "b": {"source": files}}
    with pytest.raises(DataError, match=r"data.text.lanes reads one text on and on"):
        data.build(data_config(mixture=mixture, text={"lanes": True}), tmp_path)
