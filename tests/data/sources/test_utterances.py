"""Wav files with transcripts: the samples of every format, what is held out, what is refused."""

import tarfile
import wave

import numpy as np
import pytest
from helpers import ROOT, resolved
from ml_collections import ConfigDict

from scaling import configs, data
from scaling.configs.files import import_file
from scaling.data.errors import DataError
from scaling.data.sources.utterances import read_wav, tightest

RATE = 1000


def write_wav(path, values, width=2, rate=RATE):
    """Values in [-1, 1], [n] or [n, channels], as PCM of `width` bytes a sample."""
    values = np.asarray(values, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    whole = np.round(values * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    whole += 128 if width == 1 else 0
    raw = whole.astype("<i8").reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)


def table(path, rows):
    path.write_text("\n".join(["path,text", *rows]) + "\n", encoding="utf-8")
    return str(path)


def opened(tmp_path, source, fraction=0.0, **text):
    config = ConfigDict(
        {
            "name": "tiny",
            "task": {"name": "classification"},
            "model": {"name": "mlp"},
            "data": {
                "source": {"name": "utterances", "max_seconds": 0.05, **source},
                "text": {"seq_len": 4, **text},
            },
            "optim": {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}},
            "train": {"steps": 1, "batch_size": 2},
        }
    )
    overrides = {} if "eval_paths" in source else {"data.eval_fraction": fraction}
    return data.build(resolved(config, overrides), tmp_path / "cache")


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_width_and_the_mean_of_channels(tmp_path, width, channels):
    values = np.random.default_rng(0).uniform(-1, 1, (20, channels))
    values[:2] = [[1.0] * channels, [-1.0] * channels]
    write_wav(tmp_path / "a.wav", values, width)
    rate, samples = read_wav(tmp_path / "a.wav", "here")
    assert rate == RATE
    assert samples.dtype == np.int16
    step = 2**8 if width == 1 else 1  # an 8-bit sample stands for 256 of the 16-bit ones
    np.testing.assert_allclose(samples, 32767 * values.mean(axis=1), atol=1.5 * step)


def test_samples_and_symbols_come_padded(tmp_path):
    (tmp_path / "wavs").mkdir()
    rng, samples = np.random.default_rng(0), {}
    for name, count in (("a", 50), ("b", 7)):
        write_wav(tmp_path / "wavs" / f"{name}.wav", rng.uniform(-1, 1, count))
        samples[name] = read_wav(tmp_path / "wavs" / f"{name}.wav", "")[1]
    write_wav(tmp_path / "c.wav", np.zeros(9))
    train = table(tmp_path / "train.csv", ["wavs/a.wav,abba", 'wavs/b.wav,"b"'])
    held_out = table(tmp_path / "test.csv", ["c.wav,c"])
    built = opened(tmp_path, {"paths": (train,), "eval_paths": (held_out,)})
    assert built.info.facts["sample_rate"] == RATE
    assert built.info.spec["audio"] == ((50,), np.dtype(np.int16))
    batch = built.train.batch(0, 0, 2)
    assert batch["weights"].tolist() == [1.0, 1.0]
    for i in range(2):
        count = int(batch["num_samples"][i])
        name, text = {50: ("a", "abba"), 7: ("b", "b")}[count]
        np.testing.assert_array_equal(batch["audio"][i, :count], samples[name])
        assert not batch["audio"][i, count:].any()
        labels = batch["labels"][i]
        assert batch["num_labels"][i] == len(text)
        assert built.artefacts["tokenizer"].decode(labels[: len(text)]) == text
        assert (labels[len(text) :] == built.info.separator).all()
    assert built.evals["eval"].batch(0, 1, 0, 1)["num_samples"].tolist() == [9]


def test_the_words_of_held_out_utterances_are_not_learned(tmp_path):
    for i in range(10):
        write_wav(tmp_path / f"{i}.wav", np.zeros(10 + i))
    path = table(tmp_path / "all.csv", [f"{i}.wav,word{i}" for i in range(10)])
    words = {"name": "words", "vocab_size": 16}
    built = opened(tmp_path, {"paths": (path,)}, fraction=0.3, tokenizer=words)
    sizes = built.sizes["train_examples"], built.sizes["eval_examples"]
    assert sizes == (7, 3)
    held_out = built.evals["eval"].batch(0, 3, 0, 3)
    assert (held_out["labels"][:, 0] == 16 - 2).all()
    trained = np.concatenate([built.train.batch(i, 0, 2)["num_samples"] for i in range(8)])
    assert not set(trained.tolist()) & set(held_out["num_samples"].tolist())


def test_a_changed_file_is_read_again(tmp_path):
    path = table(tmp_path / "all.csv", ["a.wav,a"])
    for value in (0.25, 0.5):
        write_wav(tmp_path / "a.wav", np.full(10, value))
        built = opened(tmp_path, {"paths": (path,)})
        np.testing.assert_allclose(built.train.batch(0, 0, 1)["audio"][0, 0], 32767 * value, atol=1)


def test_the_tightest_utterances_hold_all_others(tmp_path):
    for name, count in (("a", 30), ("b", 20), ("c", 25), ("d", 10)):
        write_wav(tmp_path / f"{name}.wav", np.zeros(count))
    path = table(tmp_path / "all.csv", ["a.wav,abba", "b.wav,abc", "c.wav,ab", "d.wav,a"])
    facts = opened(tmp_path, {"paths": (path,)}).info.facts
    # `abba` needs a blank between its two equal symbols; `ab` has more time than `abc`.
    expected = [[5, 30, 2], [3, 20, 3], [1, 10, 5]]
    assert facts["tightest"] == [[n, s, f"{path}, line {line}"] for n, s, line in expected]
    assert tightest([]) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["good.wav,"], "line 2: has no text"),
        ([",a"], "line 2: has no path"),
        ([], "hold no line"),
        (["good.wav,a", "absent.wav,a"], "line 3: cannot read .*absent.wav: No such file"),
        (
            ["good.wav,a", "fast.wav,a"],
            "line 3: .*2,000 samples a second, and the first file 1,000",
        ),
        (["good.wav,a", "text.wav,a"], "line 3: .*is not a wav file of PCM"),
        (["good.wav,a", "cut.wav,a"], "line 3: .*cut.wav (is cut short|is not a wav file)"),
        (["good.wav,a", "empty.wav,a"], "line 3: .*empty.wav holds no samples"),
        (["long.wav,a"], r"line 2: .*0.06 seconds, more than data.source.max_seconds=0.05"),
        (["good.wav,abcde"], "line 2: has 5 symbols, more than data.text.seq_len=4"),
    ],
)
def test_a_bad_line_is_named(tmp_path, rows, message):
    write_wav(tmp_path / "good.wav", np.zeros(20))
    write_wav(tmp_path / "fast.wav", np.zeros(20), rate=2 * RATE)
    write_wav(tmp_path / "long.wav", np.zeros(60))
    write_wav(tmp_path / "empty.wav", np.zeros(0))
    (tmp_path / "text.wav").write_text("no sound", encoding="utf-8")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:-10])
    with pytest.raises(DataError, match=message):
        opened(tmp_path, {"paths": (table(tmp_path / "bad.csv", rows),)})


def test_an_utterance_is_not_on_both_sides(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(20))
    train, held_out = (table(tmp_path / name, ["a.wav,a"]) for name in ("train.csv", "test.csv"))
    with pytest.raises(DataError, match=r"test.csv, line 2: .*also trained on .*train.csv, line 2"):
        opened(tmp_path, {"paths": (train,), "eval_paths": (held_out,)})
    twice = table(tmp_path / "twice.csv", ["a.wav,a", "a.wav,a"])
    with pytest.raises(DataError, match=r"twice.csv, line .: .*held out and also trained on"):
        opened(tmp_path, {"paths": (twice,)}, fraction=0.5)


def test_an_error_names_the_key_of_the_held_out_tables(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(20))
    train, empty = (table(tmp_path / f"{len(x)}.csv", x) for x in (["a.wav,a"], []))
    with pytest.raises(DataError, match=r"data\.source\.eval_paths: hold no line"):
        opened(tmp_path, {"paths": (train,), "eval_paths": (empty,)})


@pytest.mark.parametrize(("place", "value"), [(34, 64), (24, 0)])
def test_a_header_without_a_known_width_or_rate_is_refused(tmp_path, place, value):
    write_wav(tmp_path / "a.wav", np.zeros(20), width=4)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[place : place + 2] = value.to_bytes(2, "little")
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(
        DataError, match=r"here: .*a\.wav has .* bits a sample and .* samples a second"
    ):
        read_wav(tmp_path / "a.wav", "here")


def test_spoken_digits_are_unpacked_into_both_splits(tmp_path):
    digits = import_file(ROOT / "experiments" / "speech.py")
    for digit in (0, 7):
        for speaker in ("ann", "bob", "cyd"):
            for index in (0, 4, 5):
                write_wav(tmp_path / f"{digit}_{speaker}_{index}.wav", np.zeros(900), rate=8000)
    with tarfile.open(tmp_path / "digits.tar.xz", "w:xz") as file:
        for path in tmp_path.glob("*.wav"):
            file.add(path, f"free-spoken-digit-dataset/recordings/{path.name}")
        file.add(ROOT / "README.md", "free-spoken-digit-dataset/README.md")
    digits.prepare(tmp_path / "digits.tar.xz", tmp_path / "out", ("bob",))
    for split, sizes in (("official", (6, 12)), ("speakers", (12, 6))):
        argument = f"{ROOT}/experiments/speech.py:gru,{tmp_path / 'out'},{split}"
        built = data.build(configs.load_resolved(argument, []), tmp_path / "cache")
        assert (built.sizes["train_examples"], built.sizes["eval_examples"]) == sizes
        lines = (tmp_path / "out" / f"{split}_test.csv").read_text(encoding="utf-8").splitlines()
        assert ("recordings/7_ann_4.wav,seven,7" in lines) == (split == "official")
        assert ("recordings/0_bob_5.wav,zero,0" in lines) == (split == "speakers")
    with pytest.raises(SystemExit, match="held_out: takes some of the speakers"):
        digits.prepare(tmp_path / "digits.tar.xz", tmp_path / "out", ("dan",))
    with pytest.raises(SystemExit, match=r"--archive: .*README\.md is not a tar"):
        digits.prepare(ROOT / "README.md", tmp_path / "out", ("bob",))
    with pytest.raises(ValueError, match=r"MODEL,FOLDER,SPLIT.*official,more"):
        digits.get_config("gru,folder,official,more")
