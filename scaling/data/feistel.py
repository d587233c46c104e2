"""A keyed pseudo-random permutation of [0, n) that is computed, not stored.

A Feistel network permutes the 2^b numbers of b bits, 2^b being the least power of two not below n
(and at least 4); numbers that land outside [0, n) are sent through it again until they land inside
("cycle walking", Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), which keeps it a
bijection of [0, n). Any element is had in O(1) without the others, and nothing needs to be saved.
"""

import hashlib

import numpy as np

# Luby and Rackoff need 3 to 4 rounds for large halves; those of a few bits need more.
ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from a seed and the names of what it is for; other parts, another key."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): a good bijective hash of uint64 arrays."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def subkeys(key: int, counters: np.ndarray) -> np.ndarray:
    """One 64-bit key for each counter (an epoch, a block): uint64, the shape of `counters`."""
    counters = np.asarray(counters).astype(np.uint64)
    return mix64(mix64(counters * _GOLDEN + np.uint64(1)) ^ np.uint64(key))


def permute(index: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Images of `index` under the permutations of [0, n) that `keys` name: int64[k].

    Args:
      index: int64[k], each in [0, n).
      n: size of the permuted range, 1 <= n <= 2^62.
      keys: uint64[k] or uint64[1]; equal keys are the same permutation.
    """
    index = np.asarray(index, np.int64)
    if not 1 <= n <= 2**62:
        raise ValueError(f"cannot permute a range of {n} elements")
    if index.size and (index.min() < 0 or index.max() >= n):
        raise ValueError(f"indices from {index.min()} to {index.max()} are not in [0, {n})")
    keys = np.broadcast_to(np.asarray(keys, np.uint64), index.shape)
    bits = max(2, (n - 1).bit_length())
    out = _network(index.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(out >= n)
    while outside.size:
        out[outside] = _network(out[outside], bits, keys[outside])
        outside = outside[out[outside] >= n]
    return out.astype(np.int64)


def place_of(image: int, n: int, key: np.ndarray) -> int:
    """The index that the permutation of [0, n) of `key` (uint64[1]) leads to `image`."""
    bits = max(2, (n - 1).bit_length())
    x = _network(np.array([image], np.uint64), bits, key, back=True)
    while x[0] >= n:
        x = _network(x, bits, key, back=True)
    return int(x[0])


def _network(x: np.ndarray, bits: int, keys: np.ndarray, back: bool = False) -> np.ndarray:
    """Permutes the numbers of `bits` bits; `back` undoes it, by the same rounds from the last on.

    The halves need not be equal: each round changes one half by a hash of the other, which is
    invertible whatever the hash.
    """
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = x >> low_bits, x & low_mask
    for i in range(ROUNDS, 0, -1) if back else range(1, ROUNDS + 1):
        key = mix64(keys + np.array([i], np.uint64) * _GOLDEN)
        if i % 2:
            high = high ^ (mix64(low + key) & high_mask)
        else:
            low = low ^ (mix64(high + key) & low_mask)
    return (high << low_bits) | low
