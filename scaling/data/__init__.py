"""Data: sources -> examples of one shape -> batches, each a function of (config, seed, step).

    info = scaling.data.describe(config)            # cheap: shapes, vocabulary, classes
    data = scaling.data.build(config, cache_dir)    # reads and caches the data where it must
    data.train.batch(step, start, stop)             # rows start:stop of the step's global batch
    data.evals["eval"].batch(i, batch_size, start, stop)

Sources and tokenizers are dataclasses that the config names; to add one, add a line here. Nothing
in this package imports JAX or TensorFlow.
"""

from scaling.data.errors import DataError
from scaling.data.info import Data, DataContext, DataInfo, Opened

SOURCES: dict[str, str] = {
    "stdlib": "scaling.data.sources.stdlib:Stdlib",
    "python_docs": "scaling.data.sources.stdlib:Stdlib",
    "files": "scaling.data.sources.files:Files",
    "tfds": "scaling.data.sources.tfds:Tfds",
    "synthetic_zipf": "scaling.data.sources.synthetic:SyntheticZipf",
}

TOKENIZERS: dict[str, str] = {
    "bytes": "scaling.data.tokenizers:Bytes",
    "bpe": "scaling.data.tokenizers:Bpe",
}

from scaling.data.building import build, describe  # noqa: E402  (it reads the tables)

__all__ = [
    "SOURCES",
    "TOKENIZERS",
    "Data",
    "DataContext",
    "DataError",
    "DataInfo",
    "Opened",
    "build",
    "describe",
]
