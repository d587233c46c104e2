"""Data: sources -> examples of one shape -> batches, each a function of (config, seed, step).

    info = scaling.data.describe(config)            # cheap: shapes, vocabulary, classes
    data = scaling.data.build(config, cache_dir)    # reads and caches the data where it must
    data.train.batch(step, start, stop)             # rows start:stop of the step's global batch
    data.evals["eval"].batch(i, batch_size, start, stop)

Sources and tokenizers are dataclasses that the config names, by the tables SOURCES and TOKENIZERS.
Nothing in this package imports JAX or TensorFlow.
"""

# ruff: noqa: F401
from scaling.data.building import build, describe
from scaling.data.errors import DataError
from scaling.data.info import Data, DataContext, DataInfo, Opened
from scaling.data.sources import SOURCES
from scaling.data.tokenizers import TOKENIZERS
