"""Semantic-ID index files: {item: codes} in JSON, read, checked and written."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from catalog.catalog import collision_rank
from catalog.errors import InputError
from catalog.files import read_json, write_json
from catalog.ids import normal_ids, refuse_repeated

TOKEN = re.compile(r"<([a-z])_([0-9]{1,20})>")
LARGEST = 2**63 - 1
"""What an int64 can hold."""


def read_index(path: str | Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The item ids and their codes [items, L] int64 of an index file, in the file's order.

    Read are the layout shared by LETTER, LC-Rec and MiniOneRec, {"0": ["<a_183>", "<b_70>", ...], ...}, and the plain
    one that `write_index` makes, {"0": [183, 70, ...], ...}. Ids are in the form of `normal_ids`.

    Raises InputError naming the item whose codes are malformed, negative, of another length than the first item's or
    beyond LARGEST, and the item that is listed twice.
    """
    path = Path(path)
    table = read_json(path, "The semantic-ID index")
    if not isinstance(table, dict) or not table:
        raise InputError(
            f"{path} holds no items.", remedy="An index is a JSON object: item id -> list of codes.", file=path
        )
    rows = [_codes(path, item, entry) for item, entry in table.items()]
    levels = len(rows[0])
    for item, row in zip(table, rows, strict=True):
        if len(row) != levels or not row:
            raise InputError(
                f"{path}: item {item} has {len(row)} codes and the first item {levels}.",
                remedy="All semantic IDs need the same, non-zero number of levels.",
                file=path,
                row=item,
                value=row,
            )
    item_ids = normal_ids(table, "the item", path).texts
    refuse_repeated(item_ids, "The index", path)
    return tuple(item_ids), np.array(rows, np.int64)


def _codes(path: Path, item: str, entry: object) -> list[int]:
    if not isinstance(entry, list):
        raise InputError(
            f"{path}: item {item} has {entry!r} instead of a list of codes.",
            remedy="An index is a JSON object: item id -> list of codes.",
            file=path,
            row=item,
            value=entry,
        )
    return [_code(path, item, level, value) for level, value in enumerate(entry)]


def _code(path: Path, item: str, level: int, value: object) -> int:
    code: object = value
    if isinstance(value, str) and (token := TOKEN.fullmatch(value)) and token[1] == chr(ord("a") + level):
        code = int(token[2])
    if isinstance(code, int) and not isinstance(code, bool) and 0 <= code <= LARGEST:
        return code
    letter = chr(ord("a") + min(level, 25))
    raise InputError(
        f"{path}: item {item} has {value!r} at level {level + 1}.",
        remedy=f'A code is a number >= 0 or a token such as "<{letter}_12>".',
        file=path,
        row=item,
        field=f"level {level + 1}",
        value=value,
    )


def write_index(path: str | Path, item_ids: Sequence[str], codes: np.ndarray) -> None:
    """Write {item id: codes} as JSON, complete or not at all."""
    write_json(Path(path), dict(zip(item_ids, codes.tolist(), strict=True)))


def colliding(codes: np.ndarray) -> int:
    """How many of the items with codes [items, L] share all of them with another one."""
    rank = collision_rank(codes)
    return int((rank > 0).sum() + (rank == 1).sum())  # all but the first of each group, and that one once
