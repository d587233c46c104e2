"""Examples in memory."""

import numpy as np


class Arrays:
    """Random access to rows of arrays of one length."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = arrays
        self.spec = {k: (v.shape[1:], v.dtype) for k, v in arrays.items()}

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def gather(self, indices: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v[indices] for k, v in self.arrays.items()}


def spec(**kinds: tuple[tuple[int, ...], str]) -> dict:
    return {k: (shape, np.dtype(dtype)) for k, (shape, dtype) in kinds.items()}
