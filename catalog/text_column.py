"""The ids or titles of items as one column of Arrow, which may lie in a mapped file: no Python object an item."""

from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import Any, overload

import numpy as np
import polars as pl
import pyarrow as pa

CHUNK = 65_536
"""Texts that are Python's at once where all are read."""


class TextColumn(Sequence[str]):
    """A sequence of str, equal to any sequence of the same texts; a slice is one too."""

    def __init__(self, texts: "Iterable[str] | pa.LargeStringArray") -> None:
        self.column: Any = texts.column if isinstance(texts, TextColumn) else texts
        if not isinstance(self.column, pa.LargeStringArray):
            self.column = pa.array(list(texts), pa.large_string())

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "TextColumn": ...
    def __getitem__(self, place: int | slice) -> "str | TextColumn":
        if not isinstance(place, slice):
            return self.column[index(place)].as_py()
        start, stop, step = place.indices(len(self))
        if step == 1:
            return TextColumn(self.column.slice(start, max(stop - start, 0)))
        return TextColumn(self.column.take(pa.array(np.arange(start, stop, step))))

    def __iter__(self) -> Iterator[str]:
        for part in self.parts():
            yield from part

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TextColumn):
            return self.column.equals(other.column)
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(str.__eq__, self, other))

    def __hash__(self) -> int:
        return hash((len(self), *self[:1]))

    def __repr__(self) -> str:
        return f"TextColumn({len(self)}: {', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''})"

    def parts(self) -> Iterator[list[str]]:
        """All texts, some at a time."""
        for start in range(0, len(self), CHUNK):
            yield self.column.slice(start, CHUNK).to_pylist()


def first_repeated(texts: TextColumn) -> str | None:
    """The first text that stands in the column already; None where all differ."""
    hashes = pl.Series(texts.column).hash().to_numpy().copy()  # a dictionary of them would hold every text again
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return None
    numbers = texts.column.dictionary_encode().indices.to_numpy()  # in the order in which they appear
    if int(numbers.max()) + 1 == len(numbers):
        return None
    return texts[int((numbers < np.arange(len(numbers))).argmax())]
