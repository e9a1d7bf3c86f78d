"""Weights as parts of bytes: sender and receiver cut them alike, from names, dtypes and shapes."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from catalog.errors import InputError
from samplers.rollouts.engine import WeightMeta

PART_BYTES = 64 * 2**20
"""Bytes of the largest part, a multiple of ALIGNMENT."""

ALIGNMENT = 16
"""Each weight begins at a multiple of these bytes, so that it can be read where it lies."""


class Piece(NamedTuple):
    """The bytes start to stop of a weight, and where they lie in their part."""

    weight: int
    start: int
    stop: int
    offset: int

    @property
    def place(self) -> slice:
        return slice(self.offset, self.offset + self.stop - self.start)


def size(meta: WeightMeta) -> int:
    """Bytes of a weight."""
    return math.prod(meta.shape) * meta.dtype.itemsize


def cut(metas: Sequence[WeightMeta], part_bytes: int) -> list[list[Piece]]:
    """The pieces of each part, in the order of the weights; one that is larger than a part begins a part."""
    parts: list[list[Piece]] = []
    filled = part_bytes
    for weight, meta in enumerate(metas):
        start, end = 0, size(meta)
        if end > part_bytes - filled and filled:
            filled = part_bytes
        while start < end:
            if filled >= part_bytes:
                parts.append([])
                filled = 0
            stop = min(end, start + part_bytes - filled)
            parts[-1].append(Piece(weight, start, stop, filled))
            filled += math.ceil((stop - start) / ALIGNMENT) * ALIGNMENT
            start = stop
    return parts


def as_bytes(room: Tensor) -> memoryview:
    """The memory of a tensor of bytes."""
    return memoryview(room.numpy())  # type: ignore[arg-type]  # an array is a buffer


class Packer:
    """Copies weights into parts; two rooms take turns, so that one part may be sent while the next is filled.

    The rooms lie in main memory, which a GPU writes directly.
    """

    def __init__(self, part_bytes: int) -> None:
        self.part_bytes = part_bytes
        pinned = torch.cuda.is_available()
        self._rooms = [torch.empty(part_bytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]

    def parts(self, metas: Sequence[WeightMeta], weights: Iterator[tuple[str, Tensor]]) -> Iterator[memoryview]:
        """Each part; it is valid until the next but one is asked for.

        Raises AssertionError where the weights are not those of `metas`.
        """
        at, flat = -1, torch.empty(0)
        for number, pieces in enumerate(cut(metas, self.part_bytes)):
            room = self._rooms[number % 2]
            for piece in pieces:
                while at < piece.weight:
                    at += 1
                    name, tensor = next(weights)
                    assert (name, tensor.dtype, tuple(tensor.shape)) == metas[at], f"{name} is not {metas[at]}"
                    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
                room[piece.place].copy_(flat[piece.start : piece.stop], non_blocking=True)
            if flat.is_cuda:
                torch.cuda.current_stream().synchronize()
            yield as_bytes(room)[: pieces[-1].place.stop]


class Unpacker:
    """The weights in the parts that a `Packer` filled. A part may come twice, one after the other."""

    def __init__(self, metas: Sequence[WeightMeta], part_bytes: int) -> None:
        self.metas, self.parts = metas, cut(metas, part_bytes)
        self._split, self._whole = -1, torch.empty(0)  # the newest weight that is larger than a part

    def weights(self, part: int, content: memoryview) -> list[tuple[str, Tensor]]:
        """The weights that are complete with this part, views of its content or valid until the next part.

        Raises InputError where the part has another size.
        """
        pieces = self.parts[part]
        if len(content) != (expected := pieces[-1].place.stop):
            raise InputError(f"Part {part} of the weights has {len(content)} bytes instead of {expected}.")
        room = torch.frombuffer(content, dtype=torch.uint8)
        found = []
        for piece in pieces:
            meta, data = self.metas[piece.weight], room[piece.place]
            if (total := size(meta)) > piece.stop - piece.start:
                if self._split != piece.weight:
                    self._split, self._whole = piece.weight, torch.empty(total, dtype=torch.uint8)
                self._whole[piece.start : piece.stop] = data
                if piece.stop < total:
                    continue
                data = self._whole
            found.append((meta.name, data.view(meta.dtype).view(meta.shape)))
        return found
