"""Read what users did, from any common file, into one table with one row per interaction."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype
from pandas.util import hash_array

from catalog.errors import InputError
from catalog.files import read_json
from catalog.ids import encoded, normal_ids, refuse_repeated
from catalog.sorting import stable_argsort
from interactions.layouts import LOG_COLUMNS, LOGS, item_layout, log_layout
from interactions.numbers import numbers, timestamps
from interactions.tables import Kind, column_names, filled, read_table, shown

logger = logging.getLogger(__name__)

REQUIRED = ("user", "item", "timestamp")
OPTIONAL = ("behavior", "rating")
NUMERIC = ("timestamp", "rating")


def read_log(path: str | Path, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """One row per interaction, in the file's order: `user`, `item`, `timestamp` int64, or float64.

    `behavior` and `rating` (float64) are there when the file has them. Users, items and behaviors are categories of
    str: a text is held once, and a row holds its number. The path's name tells the format: LETTER's `*.inter.json`
    (timestamp: position in the user's list), or one that `read_table` reads. Its columns are `user`,
    `item` and `timestamp`, or those of a data set in `LOGS` of layouts.py; `columns` maps our names to the file's,
    e.g. `{"user": "uid"}`. Ids are in the form of `normal_ids`. Dates become integers since 1970, in the file's unit.
    Rows that repeat user, item, timestamp and behavior are dropped. `log.attrs` counts what was changed: `duplicates`,
    `ids_stripped`, `ids_made_integer`, each where there are any.

    Raises InputError that names the file, the line, row or user, and the remedy.
    """
    path, columns = Path(path), columns or {}
    if unknown := sorted(set(columns) - {*REQUIRED, *OPTIONAL}):
        raise InputError(f"columns has the unknown keys {unknown}.", remedy=f"Use some of {[*REQUIRED, *OPTIONAL]}.")
    if path.name.removesuffix(".gz").endswith(".inter.json"):
        if columns:
            raise InputError(f"{path} is JSON and has no columns.", remedy=f"Leave out columns={columns}.", file=path)
        return _read_sequences(path)
    kinds: dict[str, Kind] = dict.fromkeys(LOG_COLUMNS, "id")
    kinds |= dict.fromkeys((layout.timestamp for layout in LOGS), "number")
    kinds |= {theirs: "number" if ours == "timestamp" else "id" for ours, theirs in columns.items()}
    log = _select(read_table(path, kinds), path, columns)
    if log.empty:
        raise InputError(
            f"{path} has no interactions.", remedy="Give a file with at least one row below the header.", file=path
        )
    if (repeated := _repeated(log)).any():
        logger.info("%s: dropped %d exact duplicates of %d interactions", path, repeated.sum(), len(log))
        log.attrs["duplicates"] = int(repeated.sum())
        log = log[~repeated]
    return log.reset_index(drop=True)


def k_core(log: pd.DataFrame, k: int) -> pd.DataFrame:
    """The largest part of `log` in which every user and every item has at least `k` interactions.

    Raises InputError when nothing is left.
    """
    if k < 1:
        raise InputError(f"k={k} is no number of interactions.", remedy="Set it to 1 or more.", field="k", value=k)
    users, items = (encoded(log[name]).cat.codes.to_numpy() for name in ("user", "item"))
    rows = np.arange(len(log))
    while len(rows):
        enough = (np.bincount(users)[users] >= k) & (np.bincount(items)[items] >= k)
        if enough.all():
            return (log if len(rows) == len(log) else log.iloc[rows]).reset_index(drop=True)
        rows, users, items = rows[enough], users[enough], items[enough]
    raise InputError(f"No interaction is left in the {k}-core.", remedy=f"Lower k={k}.", field="k", value=k)


def in_order(log: pd.DataFrame) -> pd.DataFrame:
    """`log` user by user (users in order of first appearance), each user's interactions from old to new.

    Ties keep the file's order. That order matters: half of the events of MovieLens 100K are tied, and Amazon's same-day
    ties are in the order of product numbers, which a model can learn, so that results look better than they are.
    """
    users, times = pd.factorize(log["user"])[0].astype(np.int32), log["timestamp"].to_numpy()
    if _is_ordered(users, times):
        return log.reset_index(drop=True)
    order = stable_argsort(times - times.min()) if times.dtype.kind == "i" else times.argsort(kind="stable")
    return log.iloc[order[stable_argsort(users[order])]].reset_index(drop=True)


def _is_ordered(users: np.ndarray, times: np.ndarray) -> bool:
    later = np.diff(users)
    return bool((later >= 0).all() and (times[1:] >= times[:-1])[later == 0].all())


def _repeated(log: pd.DataFrame) -> np.ndarray:
    """Whether an earlier row has the same user, item, timestamp and behavior: bool [rows]."""
    what = log.columns.difference(["rating"]).tolist()
    key = np.zeros(len(log), np.uint64)
    for name in what:
        column = log[name].cat.codes if isinstance(log[name].dtype, pd.CategoricalDtype) else log[name]
        key = hash_array(column.to_numpy() + 0, categorize=False) + key * np.uint64(0x9E3779B97F4A7C15)
    ordered = np.sort(key)
    several = np.append(ordered[1:][ordered[1:] == ordered[:-1]], np.uint64(0))
    alike = np.flatnonzero(several[np.searchsorted(several[:-1], key)] == key)  # few, so that only these are compared
    repeated = np.zeros(len(log), bool)
    repeated[alike] = log.iloc[alike].duplicated(what)
    return repeated


def _select(table: pd.DataFrame, path: Path, columns: dict[str, str]) -> pd.DataFrame:
    names = _names(table, path, columns)
    wanted = [*REQUIRED, *(name for name in OPTIONAL if name in columns or names[name] in table)]
    log, counts = {}, {"ids_stripped": 0, "ids_made_integer": 0}
    for name in wanted:
        column = filled(table, names[name], path, name)
        if name in NUMERIC:
            log[name] = timestamps(column, path) if name == "timestamp" else numbers(column, path).astype("float64")
        else:
            ids = normal_ids(encoded(column), f"the {name}", path, name)
            log[name] = encoded(ids.texts)
            counts["ids_stripped"] += ids.stripped
            counts["ids_made_integer"] += ids.made_integer
    made = pd.DataFrame(log)
    made.attrs = {name: count for name, count in counts.items() if count}
    return made


def _names(table: pd.DataFrame, path: Path, columns: dict[str, str]) -> dict[str, str]:
    """The file's name of each of our columns."""
    found = column_names(table)
    layout = log_layout(found, columns)
    if layout is None and "user" not in columns and (items := item_layout(found)):
        raise InputError(
            f"{path} is a table of items ({items.name}) and no log (columns: {shown(found)}).",
            remedy="Give it as items, and the file of interactions as log.",
            file=path,
        )
    if layout not in (None, LOGS[0]):
        logger.info("%s: read as %s", path, layout.name)
    return (layout or LOGS[0]).columns() | columns


def _read_sequences(path: Path) -> pd.DataFrame:
    expected = 'Write {"user": [item, ...], ...}, each list from old to new.'
    sequences = read_json(path, "The log")
    if not isinstance(sequences, dict):
        raise InputError(f"{path} holds a {type(sequences).__name__}, not users. {expected}", file=path)
    for user, items in sequences.items():
        if not isinstance(items, list) or infer_dtype(items, skipna=False) not in ("integer", "string"):
            fault = "an empty list" if items == [] else "something other than a list of integers or strings"
            raise InputError(
                f"{path}: user {user!r} has {fault}.", remedy=f"Correct or drop this user. {expected}", file=path
            )
    if not sequences:
        raise InputError(f"{path} has no interactions. {expected}", file=path)
    items = pd.Series(sequences).explode()
    ids = {"user": normal_ids(sequences, "the user", path), "item": normal_ids(items, "the item", path)}
    refuse_repeated(ids["user"].texts, "The log", path)
    users = np.repeat(ids["user"].texts.to_numpy(), [len(listed) for listed in sequences.values()])
    items_of_all = ids["item"].texts.reset_index(drop=True).astype("str")
    log = pd.DataFrame({"user": encoded(pd.Series(users, dtype="str")), "item": encoded(items_of_all)})
    if stripped := sum(column.stripped for column in ids.values()):
        log.attrs["ids_stripped"] = stripped
    if made_integer := sum(column.made_integer for column in ids.values()):
        log.attrs["ids_made_integer"] = made_integer
    return log.assign(timestamp=log.groupby("user", sort=False, observed=True).cumcount().astype("int64"))
