"""Sorting that keeps the order of equals."""

import numpy as np


def stable_argsort(keys: np.ndarray) -> np.ndarray:
    """`keys.argsort(kind="stable")` [n] of integers >= 0.

    Where a key and its place fit into 63 bits, they are sorted as one number: some three times faster.
    """
    bits = max(len(keys) - 1, 1).bit_length()
    if len(keys) == 0 or int(keys.max()) >= 2 ** (63 - bits):
        return keys.argsort(kind="stable")
    packed = keys.astype(np.int64)
    packed <<= bits
    packed |= np.arange(len(keys))
    packed.sort()
    packed &= (1 << bits) - 1
    return packed
