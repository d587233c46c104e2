import numpy as np
import pytest
from data_helpers import some_texts, write_documents
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.documents import Part
from scaling.data.sources.files import Files
from scaling.data.tokenizers import Bpe, Bytes

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
CORPUS = ["the quick brown fox jumps over the lazy dog. " * 20 + text for text in some_texts(30)]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    path = write_documents(folder / "a.jsonl", CORPUS)
    return Bpe(vocab_size=400).fit([Part(Files(paths=(str(path),)))], folder / "cache")


@given(TEXT)
def test_bytes_spell_any_text(text):
    (tokens,) = Bytes().encode([text])
    assert tokens.tobytes() == text.encode()
    assert Bytes().decode(np.append(tokens, 256)) == text


@settings(deadline=None)
@given(TEXT)
def test_bpe_spells_any_text_and_never_the_separator(bpe, text):
    for spelled in (text, text + "<|endoftext|>", "the lazy " + text):
        (tokens,) = bpe.encode([spelled])
        assert (tokens < 399).all()
        assert bpe.decode(np.append(tokens, 399)) == spelled
        assert bpe.token_bytes[tokens].sum() == len(spelled.encode())


def test_bpe_merges_what_it_was_trained_on(bpe):
    (tokens,) = bpe.encode([CORPUS[0]])
    assert len(tokens) < len(CORPUS[0]) / 3
    assert bpe.vocab_size == len(bpe.token_bytes) == 400
    assert bpe.token_bytes[399] == 0


def test_bpe_is_the_same_every_time_and_cached(tmp_path, bpe, monkeypatch):
    path = write_documents(tmp_path / "a.jsonl", CORPUS)
    part = Part(Files(paths=(str(path),)))
    again = Bpe(vocab_size=400).fit([part], tmp_path / "cache")
    assert again.key == bpe.key

    def never(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr("scaling.data.tokenizers._train_bpe", never)
    assert Bpe(vocab_size=400).fit([part], tmp_path / "cache").key == bpe.key
    with pytest.raises(AssertionError):
        Bpe(vocab_size=401).fit([part], tmp_path / "cache")


def test_bpe_learns_from_the_training_part_alone(tmp_path):
    texts = [f"{i} common words here" for i in range(200)]
    source = Files(paths=(str(write_documents(tmp_path / "a.jsonl", texts)),))
    held_out = set(Part(source, "eval", "documents", 0.3).documents())
    marked = [text + " zzqqxx" * 50 if text in held_out else text for text in texts]

    class Marked:
        """The same documents, where the held-out ones carry a word of their own."""

        def documents(self):
            return iter(marked)

        def fingerprint(self, cache):
            return "marked"

    class Train(Part):
        def documents(self):
            return (m for m, text in zip(marked, texts, strict=True) if text not in held_out)

    tokenizer = Bpe(vocab_size=300).fit([Train(Marked(), "train")], tmp_path / "cache")
    plain = Bpe(vocab_size=300).fit([Part(source, "train", "documents", 0.3)], tmp_path / "cache")
    assert tokenizer.key == plain.key
    assert len(plain.encode([" zzqqxx"])[0]) == 7


def test_bpe_of_a_small_corpus_keeps_its_vocabulary_size(tmp_path):
    source = Files(paths=(str(write_documents(tmp_path / "a.jsonl", ["ab ab"])),))
    tokenizer = Bpe(vocab_size=1000, max_train_bytes=100).fit([Part(source)], tmp_path / "cache")
    assert tokenizer.vocab_size == 1000
    assert tokenizer.token_bytes.shape == (1000,)
    assert tokenizer.decode(tokenizer.encode(["ab ab"])[0]) == "ab ab"
