"""The histories that something is to be recommended for, from a file or from prepared splits."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from os.path import relpath
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import file_digest, read_text
from catalog.ids import normal_ids
from interactions.log import in_order, read_log
from interactions.prepared import load_prepared
from interactions.provenance import rows_digest
from interactions.split import Splits
from interactions.streaming import READ_AT_ONCE, stream_table
from interactions.tables import ending, filled, read_table, table_files

COLUMNS = ("user", "item", "timestamp", "history")
LAYOUTS = (
    "Give rows of events with the columns user and item, and timestamp where there is one, or one row a user with the "
    "column history; other names with columns={'item': '...'}."
)


class History(NamedTuple):
    """What one user has had: item ids, oldest first. error: why the row has no history; `items` is empty then."""

    user: str
    items: list[str]
    error: str | None = None


class HistorySource(Protocol):
    """Histories that can be read over and over. users: how many there are. digest: differs between other content."""

    @property
    def users(self) -> int: ...
    @property
    def digest(self) -> str: ...
    def __iter__(self) -> Iterator[History]: ...


@dataclass(frozen=True)
class HistoryFile:
    """The histories of a file that `read_histories` has checked; a file of one row a user is read row by row."""

    path: Path
    names: Mapping[str, str]
    of_events: bool
    users: int
    digest: str

    def __iter__(self) -> Iterator[History]:
        return iter(_from_events(self.path, self.names)) if self.of_events else _from_rows(self.path, self.names)


@dataclass(frozen=True)
class SplitHistories:
    """The histories of one split of a prepared folder, as item ids."""

    folder: Path
    split: str
    users: int
    digest: str

    def __iter__(self) -> Iterator[History]:
        ids, rows = Catalog.load(self.folder).item_ids, getattr(Splits.load(self.folder / "splits"), self.split)
        for start in range(0, len(rows), READ_AT_ONCE):
            some = rows[start : start + READ_AT_ONCE]
            for user, history in zip(some["user"], some["history"], strict=True):
                yield History(str(user), [ids[item] for item in history])


def read_histories(path: str | Path, columns: Mapping[str, str] | None = None) -> HistoryFile:
    """The histories of a CSV, JSON lines (each also .gz) or parquet file, whose layout its columns tell.

    - One row a user: `history`, a list of item ids, in CSV a JSON list or ids with spaces between them, and `user`;
      without that column a user is called by the number of the row, from 1. A history that cannot be read becomes a
      `History` with an `error`; an empty one holds no items.
    - Rows of events: `user`, `item` and, unless the file is in order, `timestamp`; also any file of `read_log`. Users
      come in the order in which they first appear, and each history is in the order of time.

    columns: our names to the file's, for instance {"item": "asin"}. The whole file is read once, to check it.

    Raises:
        InputError: the file is malformed or has neither layout, or a row has no user; it names the row.
    """
    path, names = Path(path), {name: name for name in COLUMNS} | dict(columns or {})
    if unknown := sorted(set(names) - set(COLUMNS)):
        raise InputError(
            f"columns has the unknown keys {unknown}.", remedy=f"Use some of {list(COLUMNS)}.", field="columns"
        )
    of_events = _holds_events(path, names)
    found: Iterable[History] = _from_events(path, names) if of_events else _from_rows(path, names)
    users = sum(1 for _ in found)
    if not users:
        raise InputError(f"{path} has no histories.", remedy=LAYOUTS, file=path)
    return HistoryFile(path, names, of_events, users, _digest(path))


def split_histories(folder: str | Path, split: str) -> SplitHistories:
    """The histories of a split of a prepared folder: all that its users had before the held-out item.

    Raises InputError for a folder that is not whole, and for a split without rows.
    """
    _, splits = load_prepared(folder)
    rows = getattr(splits, split)
    if not len(rows):
        raise InputError(f"The split {split} of {folder} has no rows.", field="split", value=split, file=folder)
    return SplitHistories(Path(folder), split, len(rows), rows_digest(rows.select_columns(["user", "history"])))


def in_parts(histories: Iterable[History], size: int) -> Iterator[list[History]]:
    """The histories `size` at a time, the last part with what is left."""
    left = iter(histories)
    while part := list(islice(left, size)):
        yield part


def read_item_list(path: str | Path) -> list[str] | dict[str, list[str]]:
    """Item ids from a text file with one a line (.txt), or from the column `item` of a table.

    A table with a column `user` gives the items of each user. Ids are in the form of `normal_ids`. Raises InputError.
    """
    path = Path(path)
    if ending(path) == ".txt":
        return [line.strip() for line in read_text(path, "The item list").splitlines() if line.strip()]
    table = read_table(path)
    items = normal_ids(filled(table, "item", path, "item"), "the item", path, "item").texts
    if "user" not in table:
        return items.to_list()
    users = normal_ids(filled(table, "user", path, "user"), "the user", path, "user").texts
    return {str(user): some.to_list() for user, some in items.groupby(users.to_numpy(), sort=False)}


def _holds_events(path: Path, names: Mapping[str, str]) -> bool:
    """Whether a file is a log rather than one row a user."""
    if ending(path) == ".inter" or path.name.removesuffix(".gz").endswith(".inter.json"):
        return True
    _, first = next(iter(stream_table(path)), (0, {}))
    if not first:
        raise InputError(f"{path} has no histories.", remedy=LAYOUTS, file=path)
    if names["history"] in first:
        return False
    if names["item"] in first and names["user"] in first:
        return True
    raise InputError(
        f"{path} has neither a column {names['history']!r} nor both {names['user']!r} and {names['item']!r} (columns: "
        f"{', '.join(map(str, first))}).",
        remedy=LAYOUTS,
        file=path,
        field="columns",
    )


def _from_events(path: Path, names: Mapping[str, str]) -> Iterable[History]:
    grouped = in_order(_events(path, names)).groupby("user", sort=False, observed=True)["item"]
    return (History(str(user), items.to_list()) for user, items in grouped)


def _events(path: Path, names: Mapping[str, str]) -> pd.DataFrame:
    """One row an event: user, item, timestamp, which is the place in the file where this has no times."""
    given = {name: names[name] for name in ("user", "item", "timestamp") if names[name] != name}
    if ending(path) == ".inter" or path.name.removesuffix(".gz").endswith(".inter.json"):
        return read_log(path, given)
    _, first = next(stream_table(path))
    if names["timestamp"] in first:
        return read_log(path, given)
    table = read_table(path)
    ids = {
        name: normal_ids(filled(table, names[name], path, name), f"the {name}", path, name).texts
        for name in ("user", "item")
    }
    return pd.DataFrame(ids).assign(timestamp=np.arange(len(table)))


def _from_rows(path: Path, names: Mapping[str, str]) -> Iterator[History]:
    text, have_users = ending(path) == ".csv", False
    for place, (number, row) in enumerate(stream_table(path), 1):
        if place == 1:
            have_users = names["user"] in row
        elif not have_users and names["user"] in row:
            raise InputError(
                f"{path}: row {number} has a user, and the first row has none.",
                remedy="Give every row a user, or none.",
                file=path,
                row=number,
                field="user",
            )
        user = _user(path, number, row.get(names["user"])) if have_users else str(place)
        try:
            yield History(user, _items(row.get(names["history"]), text))
        except InputError as error:
            yield History(user, [], error.problem)


def _user(path: Path, number: int, value: Any) -> str:
    if type(value) is int or (type(value) is str and value.strip() and not value.endswith(".0")):
        return str(value).strip()
    row = pd.Series([value], index=pd.Index([number], name="row"), dtype=object)
    return str(normal_ids(row, "the user", path, "user").texts.iloc[0])


def _items(value: Any, text: bool) -> list[str]:
    """The item ids of one history. Raises InputError where it is none."""
    if value is None:
        return []
    if text and isinstance(value, str):
        value = _parsed(value.strip())
    if not isinstance(value, list):
        raise InputError(f"The history is {_shown(value)}, which is no list of item ids.")
    kinds = set(map(type, value))
    if kinds == {int}:
        return list(map(str, value))
    if kinds == {str}:
        stripped = [item.strip() for item in value]
        if all(stripped) and not stripped[0].endswith(".0"):
            return stripped
    places = pd.RangeIndex(1, len(value) + 1, name="place")
    return normal_ids(pd.Series(value, index=places, dtype=object), "the item", field="history").texts.to_list()


def _parsed(cell: str) -> Any:
    """The list that a cell of CSV spells."""
    if not cell.startswith("["):
        return cell.split()
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _digest(path: Path) -> str:
    """A digest of a file, or of the files of a folder or a pattern and their names; 16 hexadecimal digits."""
    if path.is_file():
        return file_digest(path)[:16]
    folder = path if path.is_dir() else path.parent
    listed = [(relpath(file, folder), file_digest(file)) for file in table_files(path)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
