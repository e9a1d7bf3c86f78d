"""The titles of items, from any common file."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from catalog.errors import InputError
from catalog.files import read_json
from catalog.ids import normal_ids, refuse_repeated
from interactions.tables import ending, read_table

ID_COLUMNS = ("id", "item", "item_id")
SHAPES = 'Write {"id": {"title": "..."}, ...}, {"id": "title", ...}, or rows with the columns id and title.'


def read_items(path: str | Path) -> dict[str, str]:
    """Item id -> title, "" for an item without one; ids in the form of `normal_ids`.

    Read are JSON `{"id": {"title": "..."}}`, `{"id": "title"}` and lists of rows, and tables of `read_table` (CSV, JSON
    lines, parquet, RecBole's `.item`) with the columns `id` (or `item`, `item_id`) and `title`. Null is no title; an
    integer is taken for text. Raises InputError naming the entry that is anything else, and ids listed twice.
    """
    path = Path(path)
    given = _items_from_json(path) if ending(path) == ".json" else _items_from_table(path)
    ids = normal_ids([entry for entry, _ in given], "the item", path).texts
    refuse_repeated(ids, "The item table", path)
    return {item: _title(path, item, title) for item, (_, title) in zip(ids, given, strict=True)}


def _items_from_json(path: Path) -> list[tuple[object, object]]:
    table = read_json(path, "The item table")
    if isinstance(table, list):
        return [_item_from_row(path, number, row) for number, row in enumerate(table, 1)]
    if not isinstance(table, Mapping):
        raise InputError(f"{path} holds a {type(table).__name__} and no items.", remedy=SHAPES, file=path)
    return [(item, row.get("title") if isinstance(row, Mapping) else row) for item, row in table.items()]


def _item_from_row(path: Path, number: int, row: object) -> tuple[object, object]:
    table = row if isinstance(row, Mapping) else {}
    name = next((name for name in ID_COLUMNS if name in table), None)
    if name is None:
        raise InputError(f"{path}: entry {number} has no id.", remedy=SHAPES, file=path, row=number, value=row)
    return table[name], table.get("title")


def _items_from_table(path: Path) -> list[tuple[object, object]]:
    table = read_table(path)
    name = next((name for name in ID_COLUMNS if name in table), None)
    if name is None or "title" not in table:
        raise InputError(
            f"{path} lacks the columns id and title (columns: {', '.join(map(str, table.columns))}).",
            remedy=SHAPES,
            file=path,
        )
    titles = table["title"].astype(object).where(table["title"].notna(), None)
    return list(zip(normal_ids(table[name], "the item", path, name).texts, titles, strict=True))


def _title(path: Path, item: str, title: object) -> str:
    if title is None or title is pd.NA:
        return ""
    if isinstance(title, int) and not isinstance(title, bool):
        return str(title)
    try:
        if isinstance(title, str):
            title.encode()
            return title.strip()
    except UnicodeEncodeError:
        pass
    raise InputError(
        f"{path}: item {item!r} has the title {title!r}, which is no text.",
        remedy=SHAPES,
        file=path,
        row=item,
        field="title",
        value=title,
    )
