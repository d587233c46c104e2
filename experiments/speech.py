"""Spoken digits (FSDD) with CTC: a bidirectional GRU or a conformer, spelling out what it hears.

    python experiments/speech.py --archive=free-spoken-digit-dataset.tar.xz --out=FOLDER
    python -m scaling.main --config=experiments/speech.py:gru,FOLDER --workdir=runs/speech_gru
    python -m scaling.main --config=experiments/speech.py:conformer,FOLDER --workdir=runs/conformer
    python -m scaling.main --config=experiments/speech.py:gru,FOLDER,speakers --workdir=runs/speakers

The first command unpacks the recordings of an archive (tar, plain or compressed) of
github.com/Jakobovski/free-spoken-digit-dataset and writes two splits. `official` tests on recordings 0
to 4 of each speaker and digit; `speakers` on all recordings of the speakers in --held_out, whom
training never hears.

Measured 2026-11-26 with JAX 0.11.2 on one NVIDIA H200 beside six or seven other runs, seeds 0 to 2.
Word error rate on the official test: GRU 2.0, 1.3, 2.7 % (96 to 191 s of training), conformer 1.0,
0.7, 1.7 % (46 to 115 s). On the two speakers held out (lucas, yweweler), whom four others do not
represent: GRU 38, 43, 44 % (halfway 42, 47, 44 %).
"""

import argparse
import csv
import pathlib
import sys
import tarfile

import ml_collections

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset"
# Two frames of 10 milliseconds become one: "three" in 0.2 seconds needs six.
MODELS = {
    "gru": {
        "name": "speech_gru",
        "channels": 32,
        "time_strides": (2, 1),
        "num_layers": 2,
        "model_dim": 256,
        "dropout": 0.2,
    },
    "conformer": {
        "name": "conformer",
        "channels": 32,
        "time_strides": (2, 1),
        "num_layers": 4,
        "model_dim": 144,
        "num_heads": 4,
        "dropout": 0.1,
    },
}
VARIANTS = tuple(MODELS)
SPLITS = ("official", "speakers")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OFFICIAL_TEST = 5  # recordings 0 to 4
LONGEST = 2.3  # seconds


def get_config(arg: str = "gru") -> ml_collections.ConfigDict:
    """`arg` is MODEL[,FOLDER[,SPLIT]]: "gru" or "conformer", of `prepare`, "official" or "speakers"."""
    model, folder, split, *more = [*(arg or "gru").split(","), "", ""]
    folder, split = folder or "fsdd", split or "official"
    if model not in VARIANTS or split not in SPLITS or any(more):
        raise ValueError(f"speech takes MODEL,FOLDER,SPLIT of {VARIANTS} and {SPLITS}, got {arg!r}")
    tables = [str(pathlib.Path(folder) / f"{split}_{part}.csv") for part in ("train", "test")]
    if not all(pathlib.Path(path).exists() for path in tables):
        remedy = f"get {URL} and run: python experiments/speech.py --archive=TAR --out={folder}"
        print(f"note: data.source.paths: no {' and '.join(tables)}; {remedy}", file=sys.stderr)
    config = ml_collections.ConfigDict()
    config.name = f"speech_{model}_{split}"
    config.task = {"name": "speech", "frequency_masks": (8, 8), "time_masks": (0.15, 0.15)}
    config.data = {
        "source": {
            "name": "utterances",
            "paths": (tables[0],),
            "eval_paths": (tables[1],),
            "max_seconds": LONGEST,
        },
        "text": {"seq_len": 5},  # letters of "seven"
    }
    config.model = MODELS[model]
    config.optim = {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "schedule": {"name": "cosine", "warmup_steps": 100, "final_fraction": 0.0},
    }
    config.train = {"steps": 3000, "batch_size": 64}
    also = {"transcribe": {}, "spectrograms": {"every": 0, "batches": 1, "batch_size": 8}}
    config.eval = {"every": 500, "batch_size": 64, "also": also}
    return config


def prepare(archive: pathlib.Path, out: pathlib.Path, held_out: tuple[str, ...]) -> None:
    """Unpacks the recordings and writes the tables {official,speakers}_{train,test}.csv.

    Args:
      archive: tar file with .../recordings/{digit}_{speaker}_{index}.wav.
      out: folder for the tables, and `recordings` in it.
      held_out: speakers whose recordings are the test of the split `speakers`.
    """
    if not archive.is_file() or not tarfile.is_tarfile(archive):
        raise SystemExit(f"--archive: {archive} is not a tar file; get it from {URL}")
    recordings = out / "recordings"
    recordings.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[tuple[str, str, str]]] = {
        f"{split}_{part}": [] for split in SPLITS for part in ("train", "test")
    }
    speakers = set()
    with tarfile.open(archive) as file:
        for member in sorted(file.getmembers(), key=lambda member: member.name):
            path = pathlib.PurePosixPath(member.name)
            content = file.extractfile(member)
            if path.suffix != ".wav" or path.parent.name != "recordings" or content is None:
                continue
            (recordings / path.name).write_bytes(content.read())
            digit, speaker, index = path.stem.split("_")
            speakers.add(speaker)
            row = (f"recordings/{path.name}", DIGITS[int(digit)], digit)
            tables[f"official_{'test' if int(index) < OFFICIAL_TEST else 'train'}"].append(row)
            tables[f"speakers_{'test' if speaker in held_out else 'train'}"].append(row)
    if not set(held_out) < speakers:
        raise SystemExit(f"--held_out: takes some of the speakers {sorted(speakers)}")
    for name, rows in tables.items():
        with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "text", "digit"), *rows])
        print(f"{out / name}.csv: {len(rows)} recordings")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes tables of the Free Spoken Digit Dataset.")
    parser.add_argument("--archive", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--held_out", default="lucas,yweweler", help="speakers, by commas")
    given = parser.parse_args()
    prepare(given.archive, given.out, tuple(given.held_out.split(",")))
