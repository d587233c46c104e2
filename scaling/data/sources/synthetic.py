"""Made-up text whose entropy rate is known exactly, and on which loss falls as a power law.

The text is a stream of independent sentences that state facts:

    c1 c2 .. ck  y1 .. ym       a subject, spelled in k digits, and its m attributes

There are n = base^k subjects. Subject r (1 <= r <= n) is drawn with a Zipf law in its Pareto form,

    P(rank >= r) = r^-skew,  so  P(r) ~ skew * r^-(1 + skew)       (cut off at n)

and attribute j of subject r is a fixed random symbol g(r, j), except that with probability `noise`
it is a uniformly drawn one. Nothing about a rare fact follows from the others: a model must have
seen the subject (data) and kept the fact (parameters). That gives, before the cut-off at n shows,

    excess ~ D^-(skew / (1 + skew))   in tokens D  (Karlin 1967; Hutter 2021, arXiv:2102.04074)
    excess ~ N^-skew                  in facts that the model can hold, which go with its parameters
                                      (Michaud et al. 2023, arXiv:2303.13506)

over the entropy rate, which is a finite sum. With the default skew of 0.5 these are 1/3 and 1/2.

Digits at each place and attributes have symbols of their own, so the place in a sentence is always
plain. Every example begins with a sentence. Examples are numbered; example i is a function of
(language, i), so access is random and nothing is stored; held-out examples have other numbers than
training examples can have.
"""

import dataclasses
import functools
from typing import Annotated, ClassVar

import numpy as np

from scaling.configs.types import NonNegativeInt, PositiveFloat, PositiveInt, Range
from scaling.data.errors import DataError
from scaling.data.feistel import derive_key, subkeys
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Batch
from scaling.data.windows import text_spec

TRAIN_EXAMPLES = 1 << 40  # numbers below are for training, those from here on are held out
_MAX_SUBJECTS = 1 << 26  # the entropy is a sum over subjects
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class SyntheticZipf:
    """Facts about Zipf-distributed subjects; see the module's docstring.

    Attributes:
      skew: exponent of the tail, P(rank >= r) = r^-skew.
      base: symbols for each digit, and values of an attribute.
      digits: digits of a subject; there are base^digits subjects.
      attributes: attributes in a sentence.
      noise: probability that an attribute is drawn uniformly instead of being the fact.
      language: which facts are true; another number, other facts.
      eval_examples: held-out examples.
    """

    reads: ClassVar[tuple[str, ...]] = ("seq_len", "mask_documents", "limit")

    skew: PositiveFloat = 0.5
    base: Annotated[int, Range(low=2)] = 64
    digits: PositiveInt = 4
    attributes: PositiveInt = 4
    noise: Annotated[float, Range(above=0.0, below=1.0)] = 0.1
    language: NonNegativeInt = 0
    eval_examples: PositiveInt = 2048

    def __post_init__(self) -> None:
        if self.subjects > _MAX_SUBJECTS:
            raise DataError(
                f"data.source: base**digits = {self.base}**{self.digits} is more than "
                f"{_MAX_SUBJECTS:,} subjects: lower one of the two"
            )

    @property
    def subjects(self) -> int:
        """How many subjects there are."""
        return self.base**self.digits

    @property
    def sentence(self) -> int:
        """Tokens in a sentence."""
        return self.digits + self.attributes

    @property
    def vocab_size(self) -> int:
        """Symbols: `base` for each place of a digit, and `base` for attributes."""
        return self.base * (self.digits + 1)

    def describe(self, context: DataContext) -> DataInfo:
        """Vocabulary and entropy rate."""
        length = context.section.text.seq_len
        return DataInfo(
            kind="text",
            unit="tokens",
            spec=text_spec(length, context.section.text.mask_documents),
            vocab_size=self.vocab_size,
            entropy_rate=self.entropy_rate(length),
        )

    def open(self, context: DataContext) -> Opened:
        """The endless training examples and the held-out ones."""
        length, mask = context.section.text.seq_len, context.section.text.mask_documents
        train = self.windows(length, mask, held_out=False, limit=context.section.limit)
        held_out = self.windows(length, mask, held_out=True)
        info = dataclasses.replace(self.describe(context), eval_entropy=held_out.mean_true_loss())
        return Opened(info, {"train": train}, {"eval": held_out})

    def windows(
        self, seq_len: int, mask_documents: bool, held_out: bool, limit: int | None = None
    ) -> "SyntheticWindows":
        """The held-out examples, or those to train on, of which `limit` tokens (None: 2^40 examples)."""
        first, count = (TRAIN_EXAMPLES, self.eval_examples) if held_out else (0, TRAIN_EXAMPLES)
        if limit is not None:
            count = min(count, max(1, limit // seq_len))
        return SyntheticWindows(self, seq_len, mask_documents, first, count)

    def entropy_rate(self, seq_len: int | None = None) -> float:
        """Nats per target: the least expected loss of any model.

        Args:
          seq_len: targets in an example; None for the rate of the endless stream, which is also
            that of every multiple of `sentence`. (Other lengths hold a part of a sentence more.)
        """
        place = self._place_entropies()
        targets = np.arange(1, (self.sentence if seq_len is None else seq_len) + 1)
        return float(place[targets % self.sentence].mean())

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of every target under the true distribution, nats.

        int[n, T + 1], whole examples from their beginning (inputs and last target) -> float64[n, T];
        entry t belongs to token t + 1.
        """
        count, length = tokens.shape
        sentences = -(-length // self.sentence)
        padded = np.zeros((count, sentences * self.sentence), np.int64)
        padded[:, :length] = tokens
        padded = padded.reshape(count * sentences, self.sentence)
        out = np.empty(padded.shape)
        cell = np.zeros(len(padded), np.int64)
        above = np.zeros(len(padded))
        for place in range(self.digits):
            digit = np.clip(padded[:, place] - place * self.base, 0, self.base - 1)
            cell = cell * self.base + digit
            here = np.log(self._cell_probability(cell, place + 1))
            out[:, place] = here - above
            above = here
        fact = self._facts(cell + 1) + self.digits * self.base
        hit, miss = self._attribute_probabilities()
        out[:, self.digits :] = np.log(np.where(padded[:, self.digits :] == fact, hit, miss))
        return out.reshape(count, -1)[:, 1:length]

    def sentences(self, numbers: np.ndarray) -> np.ndarray:
        """Sentences by number: int64[n] -> int32[n, sentence]."""
        draws = numbers[:, None] * (1 + self.attributes) + np.arange(1 + self.attributes)
        key = derive_key(self.language, "synthetic_zipf", "stream")
        uniform = (subkeys(key, draws) >> np.uint64(11)) * 2.0**-53
        rank = self._rank(uniform[:, 0])
        coin = uniform[:, 1:]
        random = (coin / self.noise * self.base).astype(np.int64)  # uniform where coin < noise
        value = np.where(coin < self.noise, random, self._facts(rank))
        place = self.base ** np.arange(self.digits - 1, -1, -1)
        digits = (rank - 1)[:, None] // place % self.base + self.base * np.arange(self.digits)
        return np.concatenate([digits, value + self.base * self.digits], axis=1).astype(np.int32)

    def _rank(self, uniform: np.ndarray) -> np.ndarray:
        """Inverse of the distribution function: [0, 1) -> 1 .. subjects."""
        tail = (self.subjects + 1.0) ** -self.skew
        survival = tail + (1.0 - tail) * (1.0 - uniform)
        return np.clip(np.floor(survival ** (-1.0 / self.skew)), 1, self.subjects).astype(np.int64)

    def _facts(self, rank: np.ndarray) -> np.ndarray:
        """Values of the attributes of subjects: int64[n] -> int64[n, attributes]."""
        numbers = rank[:, None] * self.attributes + np.arange(self.attributes)
        key = derive_key(self.language, "synthetic_zipf", "facts")
        return (subkeys(key, numbers) % np.uint64(self.base)).astype(np.int64)

    def _attribute_probabilities(self) -> tuple[float, float]:
        """Of the fact, and of each other value."""
        miss = self.noise / self.base
        return 1.0 - self.noise + miss, miss

    def _cell_probability(self, cell: np.ndarray, places: int) -> np.ndarray:
        """Probability that the first `places` digits spell `cell`."""
        width = float(self.base ** (self.digits - places))
        low = cell * width + 1.0
        inside = -(low**-self.skew) * np.expm1(-self.skew * np.log1p(width / low))
        return inside / (1.0 - (self.subjects + 1.0) ** -self.skew)

    def _place_entropies(self) -> np.ndarray:
        """Entropy of each place of a sentence given the places before it: float64[sentence]."""
        hit, miss = self._attribute_probabilities()
        attribute = -hit * np.log(hit) - (self.base - 1) * miss * np.log(miss)
        joint = [0.0, *(_digits_entropy(self, places) for places in range(1, self.digits + 1))]
        return np.array([*np.diff(joint), *[attribute] * self.attributes])


@functools.lru_cache(maxsize=64)
def _digits_entropy(source: SyntheticZipf, places: int) -> float:
    """Entropy of the first `places` digits together, nats: an exact sum over what they can be."""
    cells = source.base**places
    total = 0.0
    for start in range(0, cells, _CHUNK):
        cell = np.arange(start, min(start + _CHUNK, cells))
        p = source._cell_probability(cell, places)
        total -= float(np.sum(p * np.log(p)))
    return total


class SyntheticWindows:
    """Numbered examples `first` to `first + count` of a made-up language."""

    def __init__(
        self, source: SyntheticZipf, seq_len: int, mask_documents: bool, first: int, count: int
    ) -> None:
        self.spec = text_spec(seq_len, mask_documents)
        self._source = source
        self._seq_len = seq_len
        self._mask = mask_documents
        self._first = first
        self._count = count

    def __len__(self) -> int:
        return self._count

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """Examples by index: int64[n] -> {inputs, targets: int32[n, T], weights: float32, ...}."""
        rows, length = len(indices), self._seq_len
        per_example = -(-(length + 1) // self._source.sentence)
        numbers = (np.asarray(indices, np.int64)[:, None] + self._first) * per_example
        tokens = self._source.sentences((numbers + np.arange(per_example)).ravel())
        tokens = tokens.reshape(rows, -1)[:, : length + 1]
        batch = {
            "inputs": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "weights": np.ones((rows, length), np.float32),
        }
        if self._mask:  # an example is one document
            batch["segments"] = np.ones((rows, length), np.int32)
            batch["positions"] = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
        return batch

    def mean_true_loss(self) -> float:
        """Mean of -log p under the true distribution over these very examples, nats per target."""
        total = 0.0
        for start in range(0, self._count, 4096):
            batch = self.gather(np.arange(start, min(start + 4096, self._count)))
            tokens = np.concatenate([batch["inputs"], batch["targets"][:, -1:]], axis=1)
            total -= float(self._source.log_probs(tokens).sum())
        return total / (self._count * self._seq_len)
