import codecs
import gzip
import json
import lzma
import os

import pytest
import zstandard
from data_helpers import some_texts, unprivileged, write_documents
from helpers import shared

from scaling.data.errors import DataError
from scaling.data.sources.files import Files

TEXTS = some_texts(20)


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.mark.parametrize(
    ("suffix", "opener"),
    [(".jsonl", open), (".jsonl.gz", gzip.open), (".jsonl.xz", lzma.open)]
    + [(".jsonl.zst", zstandard.open)],
)
def test_reads_every_format(tmp_path, suffix, opener):
    path = tmp_path / f"a{suffix}"
    with opener(path, "wb") as file:
        file.write(lines(TEXTS))
    assert list(Files(paths=(str(path),)).documents()) == TEXTS


def test_reads_zst_of_several_frames(tmp_path):
    frames = [zstandard.compress(lines(TEXTS[i : i + 5])) for i in range(0, 20, 5)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert list(Files(paths=(f"{tmp_path}/a.jsonl.zst",)).documents()) == TEXTS
    big = ["x" * 3_000_000, "y"]
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines(big)))
    assert list(Files(paths=(f"{tmp_path}/a.jsonl.zst",)).documents()) == big


def test_a_text_file_is_one_document_byte_for_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("a\r\nb\n\u00e9".encode())
    assert list(Files(paths=(str(path),)).documents()) == ["a\r\nb\n\u00e9"]


def test_globs_are_sorted_and_taken_once(tmp_path, monkeypatch):
    for name in ("b", "a", "sub/c"):
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    assert list(Files(paths=("*.txt", "a.txt")).documents()) == ["a", "b"]
    assert list(Files(paths=("**/*.txt",)).documents()) == ["a", "b", "sub/c"]


def test_another_key_and_documents_without_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x"}\n\n{"body": ""}\n{"body": "y"}')
    assert list(Files(paths=(str(path),), field="body").documents()) == ["x", "", "y"]


BAD = {
    "not UTF-8 (.txt)": ("a.txt", b"abc\xe9def", r"a\.txt is not UTF-8, .*: byte 0xe9 at offset 3"),
    "not UTF-8 (.jsonl)": ("a.jsonl", lines(["a"]) + b'{"text": "\xff"}', r"0xff at offset 24"),
    "empty .txt": ("a.txt", b"", r"hold no text: .*a\.txt"),
    "empty .jsonl": ("a.jsonl", b"\n\n", r"hold no text: .*a\.jsonl"),
    "no JSON": ("a.jsonl", lines(["a"]) + b"{oops\n", r"a\.jsonl, line 2 is not JSON"),
    "no such key": ("a.jsonl", b'{"body": "x"}\n', r"line 1 has no text under 'text'.*\['body'\]"),
    "no object": ("a.jsonl", b"[1]\n", r"line 1 is list, not an object"),
    "a number": ("a.jsonl", b'{"text": 3}\n', "line 1 has int under 'text', not text"),
    "lone surrogate": ("a.jsonl", b'{"text": "a\\ud800"}\n', "lone surrogate at character 1"),
    "unknown format": ("a.csv", b"x", r"cannot tell its format; known are \.txt"),
    "cut short .gz": ("a.jsonl.gz", gzip.compress(lines(TEXTS))[:-20], "damaged or cut short"),
    "cut short .xz": ("a.jsonl.xz", lzma.compress(lines(TEXTS))[:-20], "damaged or cut short"),
    "no .gz at all": ("a.jsonl.gz", b"plain text", "damaged or cut short"),
    "no .xz at all": ("a.jsonl.xz", b"plain text", "damaged or cut short"),
    "no .zst at all": ("a.jsonl.zst", b"plain text", "damaged or cut short"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_say_what_where_and_the_remedy(tmp_path, case):
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(Files(paths=(str(tmp_path / name),)).documents())


def test_a_damaged_stream_inside_zst_is_an_error(tmp_path):
    packed = zstandard.ZstdCompressor().compress(os.urandom(100_000) + lines(TEXTS))
    (tmp_path / "a.jsonl.zst").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError):
        list(Files(paths=(f"{tmp_path}/a.jsonl.zst",)).documents())


def test_a_zst_cut_short_between_lines_is_an_error(tmp_path):
    whole = lines(TEXTS)
    compressor = zstandard.ZstdCompressor().compressobj()
    packed = compressor.compress(whole) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    (tmp_path / "a.jsonl.zst").write_bytes(packed)  # all lines, but no end of the frame
    with pytest.raises(DataError, match="cut short"):
        list(Files(paths=(f"{tmp_path}/a.jsonl.zst",)).documents())


@pytest.mark.parametrize(("errors", "text"), [("replace", "abc\ufffddef"), ("ignore", "abcdef")])
def test_the_remedy_for_other_encodings_works(tmp_path, errors, text):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xe9def")
    assert list(Files(paths=(str(path),), errors=errors).documents()) == [text]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "abc\\ud800def"}\n')
    assert list(Files(paths=(str(path),), errors=errors).documents()) == [text]


def test_missing_files_say_what_is_there(tmp_path):
    (tmp_path / "there.txt").write_text("x")
    with pytest.raises(DataError, match=r"no file matches .*her\.txt.*holds: there\.txt"):
        list(Files(paths=(str(tmp_path / "her.txt"),)).documents())
    with pytest.raises(DataError, match="there is no folder"):
        list(Files(paths=(str(tmp_path / "none" / "a.txt"),)).documents())
    with pytest.raises(DataError, match="no file matches"):
        Files(paths=(str(tmp_path / "*.jsonl"),)).fingerprint(tmp_path)
    with pytest.raises(DataError, match="name at least one"):
        list(Files(paths=()).documents())


def test_an_unreadable_file_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(folder.stat().st_mode | 0o011)
    path.chmod(0)
    source = Files(paths=(str(path),))
    with unprivileged():
        with pytest.raises(DataError, match=r"cannot read .*a\.txt.*[Pp]ermission"):
            list(source.documents())
        with pytest.raises(DataError, match=r"cannot read .*a\.txt"):
            source.fingerprint(tmp_path / "cache")


def test_eval_paths_are_the_held_out_part(tmp_path):
    train = write_documents(tmp_path / "train.jsonl", TEXTS)
    held = write_documents(tmp_path / "eval.jsonl", ["held"])
    source = Files(paths=(str(train),), eval_paths=(str(held),))
    assert list(source.held_out().documents()) == ["held"]
    assert Files(paths=(str(train),)).held_out() is None
    (tmp_path / "link.jsonl").symlink_to(train)
    both = Files(paths=(str(train),), eval_paths=(str(tmp_path / "link.jsonl"),))
    with pytest.raises(DataError, match="in paths and in eval_paths"):
        both.held_out()


def test_reads_real_books():
    source = Files(paths=(str(shared("data", "gutenberg") / "validation*"),))
    texts = list(source.documents())
    assert len(texts) == 8
    assert min(map(len, texts)) > 10_000


def read(path, **keys):
    return list(Files(paths=(str(path),), **keys).documents())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_the_byte_order_mark_names_the_encoding_and_is_no_text(tmp_path, encoding):
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    (tmp_path / "a.txt").write_bytes(f"{mark}Größe\r\nzwei".encode(encoding))
    assert read(tmp_path / "a.txt") == ["Größe\r\nzwei"]
    rows = '{"text": "Ä\u010a"}\n{"text": "b"}\n'
    for name, pack in (("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(f"{mark}{rows}".encode(encoding)))
        assert read(tmp_path / name) == ["Ä\u010a", "b"]


def test_a_mark_of_an_encoding_that_the_rest_is_not_in_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF16_LE + b"abc")
    with pytest.raises(DataError, match=r"mark of utf-16-le and is not utf-16-le"):
        read(tmp_path / "a.txt")


def test_lines_without_text_are_empty_and_a_key_that_no_line_has_is_an_error(tmp_path):
    rows = [{"text": "a"}, {"text": None}, {"id": 3}, {"text": ""}, {"text": " \n"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read(path) == ["a", "", "", "", " \n"]
    with pytest.raises(DataError, match=r"line 1 has no text under 'body'.*no line of the file"):
        read(path, field="body")


def test_a_separator_divides_a_text_into_documents(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n<|endoftext|>\ntwo\n\nmore<|endoftext|>three\n<|endoftext|>\n")
    assert read(path, separator="<|endoftext|>") == ["one", "two\n\nmore", "three"]
    plain, split = (Files(paths=(str(path),), separator=s) for s in ("", "<|endoftext|>"))
    assert plain.fingerprint(tmp_path) != split.fingerprint(tmp_path)


def test_reads_zst_with_a_long_window(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(packer.compress(lines(TEXTS)) + packer.flush())
    assert read(path) == TEXTS


def test_an_existing_file_is_taken_as_it_stands(tmp_path):
    path = tmp_path / "O'Brien data, v2 [a]" / "a b.jsonl"
    path.parent.mkdir()
    path.write_bytes(lines(["x"]))
    assert read(path) == ["x"]
