"""The titles of items, from any common file."""

import html
import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from catalog.errors import InputError
from catalog.files import read_json, require_file
from catalog.ids import normal_ids, refuse_repeated
from interactions.layouts import ITEM_COLUMNS, ITEMS, LOG_COLUMNS, ItemLayout, item_layout, log_layout
from interactions.lines import first_json_row
from interactions.tables import column_names, ending, read_table, shown

logger = logging.getLogger(__name__)

ITEM_IDS = frozenset(layout.item for layout in ITEMS)
ID_COLUMNS = tuple(layout.item for layout in ITEMS if not layout.raw)
SHAPES = 'Write {"id": {"title": "..."}, ...}, {"id": "title", ...}, or rows with the columns id and title.'


def read_items(path: str | Path) -> dict[str, str]:
    """Item id -> title, "" for an item without one; ids in the form of `normal_ids`.

    Read are JSON `{"id": {"title": "..."}}`, `{"id": "title"}` and lists of rows, and tables of `read_table` with the
    columns `id` (or `item`, `item_id`) and `title`, or those of a public data set in `ITEMS` of layouts.py. Null is no
    title; an integer is taken for text. Raises InputError naming the entry that is anything else, and ids listed twice.

    In the raw file of a data set titles are HTML: entities become characters, and blanks and line breaks one blank.
    Rows without an id are left out; an item that is listed again keeps its first title. Both are logged with their
    number.
    """
    path = Path(path)
    if ending(path) == ".json":
        require_file(path, "The item table")
        if not ITEM_IDS & (first_json_row(path) or {}).keys():  # one document, not an item a line
            return _titles(path, _items_from_json(path))
    return _items_from_table(path)


def _titles(path: Path, given: list[tuple[object, object]]) -> dict[str, str]:
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


def _items_from_table(path: Path) -> dict[str, str]:
    table = read_table(path, dict.fromkeys((*ITEM_COLUMNS, *LOG_COLUMNS), "text"))
    names = column_names(table)
    if log := log_layout(names, {}):
        raise InputError(
            f"{path} is a log ({log.name}) and no table of items (columns: {shown(names)}).",
            remedy="Give it as log, and the file of the items as items.",
            file=path,
        )
    layout = item_layout(names)
    if layout is None:
        raise InputError(
            f"{path} lacks the columns of an item and its title (columns: {shown(names)}).",
            remedy=SHAPES,
            file=path,
        )
    if layout.raw:
        return _raw_titles(path, table, layout)
    ids = normal_ids(table[layout.item], "the item", path, layout.item).texts
    return _titles(path, list(zip(ids, _objects(table["title"]), strict=True)))


def _raw_titles(path: Path, table: pd.DataFrame, layout: ItemLayout) -> dict[str, str]:
    known = table[table[layout.item].notna()]
    ids = normal_ids(known[layout.item], "the item", path, layout.item).texts
    found: dict[str, str] = {}
    for item, *titles in zip(ids, *(_objects(known[name]) for name in layout.titles), strict=True):
        texts = (_title(path, item, title) for title in titles)
        title = next((" ".join(html.unescape(text).split()) for text in texts if text), "")
        found[item] = found.get(item) or title
    for count, what in ((len(table) - len(known), "have no id"), (len(known) - len(found), "list an item again")):
        if count:
            logger.warning("%s: %d of %d rows %s and were left out", path, count, len(table), what)
    return found


def _objects(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), None)


def _title(path: Path, item: str, title: object) -> str:
    if title is None:
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
