"""How logs and item tables name their columns: our own files, RecBole's, and the raw files of public data sets.

A new data set is one line in `LOGS` and one in `ITEMS`, and one in `HEADERLESS` where its files name no columns.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LogLayout:
    """The columns of a log. A file has this layout when it has the columns of `user` and `item`."""

    name: str
    user: str
    item: str
    timestamp: str = "timestamp"
    rating: str = "rating"
    behavior: str = "behavior"

    def columns(self) -> dict[str, str]:
        return {ours: theirs for ours, theirs in vars(self).items() if ours != "name"}


@dataclass(frozen=True)
class ItemLayout:
    """The columns of an item table. A file has this layout when it has them all.

    titles: columns of titles; an item's title is the first of them that is not blank.
    raw: whether the file is that of a data set, as it was crawled: titles are HTML, rows repeat items or have no id.
    """

    name: str
    item: str
    titles: tuple[str, ...]
    raw: bool = True


@dataclass(frozen=True)
class Headerless:
    """The names of columns that a file without a header lacks. first: the cells of its first line, tabs between."""

    ending: str
    first: str
    names: tuple[str, ...]


LOGS = (
    LogLayout("interactions", "user", "item"),
    LogLayout("interactions with RecBole's names", "user_id", "item_id"),
    LogLayout("Amazon reviews 2023", "user_id", "parent_asin"),
    LogLayout("Amazon reviews 2014 or 2018", "reviewerID", "asin", "unixReviewTime", "overall"),
    LogLayout("MovieLens", "userId", "movieId"),
    LogLayout("Yelp", "user_id", "business_id", "date", "stars"),
    LogLayout("Steam", "username", "product_id", "date"),
)
ITEMS = (
    ItemLayout("Amazon products 2023", "parent_asin", ("title",)),
    ItemLayout("Amazon products 2014 or 2018", "asin", ("title",)),
    ItemLayout("MovieLens", "movieId", ("title",)),
    ItemLayout("Yelp", "business_id", ("name",)),
    ItemLayout("Steam", "id", ("title", "app_name")),
    ItemLayout("items", "id", ("title",), raw=False),
    ItemLayout("items", "item", ("title",), raw=False),
    ItemLayout("items", "item_id", ("title",), raw=False),
)
_REVIEWER, _ASIN, _NUMBER = r"A[0-9A-Z]{9,}", r"[0-9B][0-9A-Z]{9}", r"[0-9.]+"
HEADERLESS = (  # Amazon's ratings: the user comes first in 2014, the item in 2018
    Headerless(".csv", rf"{_REVIEWER}\t{_ASIN}\t{_NUMBER}\t\d+", ("reviewerID", "asin", "overall", "unixReviewTime")),
    Headerless(".csv", rf"{_ASIN}\t{_REVIEWER}\t{_NUMBER}\t\d+", ("asin", "reviewerID", "overall", "unixReviewTime")),
    Headerless(".dat", rf"\d+\t\d+\t{_NUMBER}\t\d+", ("userId", "movieId", "rating", "timestamp")),
    Headerless(".dat", r"\d+\t[^\t]+\t[^\t]*", ("movieId", "title", "genres")),
)

LOG_COLUMNS = frozenset(name for layout in LOGS for name in layout.columns().values())
ITEM_COLUMNS = frozenset(name for layout in ITEMS for name in (layout.item, *layout.titles))


def log_layout(names: Collection[str], columns: Mapping[str, str]) -> LogLayout | None:
    """The first layout of `LOGS` whose user and item are among `names`; `columns` replaces names of the layout."""
    for layout in LOGS:
        if {columns.get("user", layout.user), columns.get("item", layout.item)} <= {*names}:
            return layout
    return None


def item_layout(names: Collection[str]) -> ItemLayout | None:
    """The first layout of `ITEMS` whose columns are among `names`."""
    return next((layout for layout in ITEMS if {layout.item, *layout.titles} <= {*names}), None)


def names_of_columns(ending: str, first: Collection[str]) -> tuple[str, ...] | None:
    """The names of the columns of a file without a header, known by its first line's cells; None for any other."""
    line = "\t".join(first)
    return next(
        (known.names for known in HEADERLESS if known.ending == ending and re.fullmatch(known.first, line)), None
    )
