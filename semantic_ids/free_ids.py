"""Semantic IDs that no item has, the nearest first: for items that come later, and for those whose codes are taken."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from catalog.catalog import collision_rank
from catalog.errors import InputError
from semantic_ids.codebooks import Codebooks, distances


class FreeIds:
    """The semantic IDs that no item has.

    codes: those of the items, [items, L] int64. given: of each level the codes that may be given, by default those that
    some item has. Raises InputError where `codebooks` are of other codes.
    """

    def __init__(self, codes: np.ndarray, codebooks: Codebooks, given: Sequence[Tensor] = ()) -> None:
        self.used = list(given) or [torch.from_numpy(np.unique(level)) for level in codes.T]
        if not 0 <= codes.shape[1] - codebooks.levels <= 1 or any(
            int(level.max()) >= len(center) for level, center in zip(self.used, codebooks.centroids, strict=False)
        ):
            raise InputError(
                f"Codebooks of {codebooks.levels} levels for semantic IDs of {codes.shape[1]} codes up to "
                f"{codes.max(0).tolist()}: they are of another catalog.",
                remedy="Load both from one prepared folder.",
                field="codebooks",
            )
        self.centroids = [center[level] for level, center in zip(self.used, codebooks.centroids, strict=False)]
        self.below = [math.prod(len(level) for level in self.used[n:]) for n in range(codes.shape[1] + 1)]
        self.taken: Counter[tuple[int, ...]] = Counter()  # prefix -> how many semantic IDs below it are taken
        for one in np.unique(codes, axis=0).tolist():
            self._count(tuple(one))

    def take(self, residual: Tensor, item: str) -> tuple[int, ...]:
        """The nearest free semantic ID of an encoded vector [d'], which is then taken."""
        for codes in self._nearest(residual, ()):
            self._count(codes)
            return codes
        raise InputError(
            f"No semantic ID is left for item {item!r}: every combination of the codes is taken.",
            remedy="Prepare the log anew with larger codebook_sizes, and train again.",
            row=item,
        )

    def _count(self, codes: tuple[int, ...]) -> None:
        self.taken.update(codes[:length] for length in range(len(codes) + 1))

    def _nearest(self, residual: Tensor, prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        level = len(prefix)
        if self.taken[prefix] == self.below[level]:
            return
        if level == len(self.used):
            yield prefix
        elif level == len(self.centroids):  # the code that tells items with equal codes apart
            for code in self.used[level].tolist():
                yield from self._nearest(residual, (*prefix, code))
        else:
            order = distances(residual.unsqueeze(0), self.centroids[level])[0].argsort()  # [codes]
            for place, code in zip(order.tolist(), self.used[level][order].tolist(), strict=True):
                yield from self._nearest(residual - self.centroids[level][place], (*prefix, code))


def spread(codes: np.ndarray, codebooks: Codebooks, vectors: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
    """Codes [items, L] of which no two are equal: of items with equal ones the first keeps them, each other takes the
    nearest that are free.

    vectors: [items, d], which `codebooks` gave these codes. As in LC-Rec (arXiv 2311.09049) items that would collide
    differ in their last code; where all of those are taken, in one before it. Raises InputError for more items than
    combinations of codes.
    """
    given = [torch.arange(len(center)) for center in codebooks.centroids]
    free, apart = FreeIds(codes, codebooks, given), codes.copy()
    late = np.flatnonzero(collision_rank(codes))
    for item, residual in zip(late.tolist(), codebooks.encode(vectors[late]), strict=True):
        apart[item] = free.take(residual, item_ids[item])
    return apart
