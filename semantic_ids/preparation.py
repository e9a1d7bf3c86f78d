"""An interaction log, or split rows, into a prepared folder: the catalog with its semantic IDs, and the splits."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from catalog import Catalog
from catalog.catalog import Collisions
from catalog.errors import InputError
from catalog.files import sealed
from catalog.settings import as_table
from interactions import (
    Splits,
    by_time,
    check_free,
    fetch_movielens_100k,
    in_order,
    k_core,
    leave_one_out,
    own_splits,
    read_items,
    read_log,
    read_rows,
    read_titles,
    save_prepared,
    training_counts,
    unrankable,
    untrained,
)
from interactions.by_time import QUANTILES
from interactions.split import NAMES
from semantic_ids.codebooks import Codebooks, agreement
from semantic_ids.free_ids import spread
from semantic_ids.index import colliding, read_index
from semantic_ids.quantizer import QUANTIZERS, default_sizes
from semantic_ids.settings import DataArguments
from semantic_ids.vectors import index_affinity, item_vectors, vector_sources

logger = logging.getLogger(__name__)

FILES = ("log", *NAMES, "index", "items")
"""The settings that name one file."""
HELD_OUT = ("validation", "test")


def prepare(log: str | Path | None, output_dir: str | Path, **settings: Any) -> dict[str, Any]:
    """A log, or rows that are split already, into catalog and splits, whole or not at all.

    Args:
        log: the file, or "movielens-100k"; None where `train`, `validation` and `test` are given.
        output_dir: the folder to write; one that was prepared before is replaced.
        settings: the others of `DataArguments`.

    Returns:
        What was counted, which metrics.json of the folder holds too.

    Raises:
        InputError: a setting, the log, the rows, the index or the vectors are wrong, or `output_dir` holds something
            else.
        SetupError: the disk is full, or another process prepares the same folder.
    """
    args = DataArguments(log=None if log is None else str(log), output_dir=str(output_dir), **settings)
    check_free(Path(args.output_dir))  # before the work, too
    given, titles = _read(args), _titles(args)
    made: dict[str, Any] = {}
    item_ids: Sequence[str]
    if args.index:
        item_ids, codes = read_index(args.index)
        splits = given.split(item_ids)
        made["affinity"] = {args.index: index_affinity(codes, splits)}
        codebooks: Codebooks | None = None
        if args.vectors:
            vectors, alike = item_vectors(vector_sources(args.vectors), item_ids, titles, splits, args.seed)
            made["affinity"] |= alike
            codebooks = Codebooks.from_codes(codes, vectors)
            made["nearest_codes"] = agreement(codebooks, codes, vectors)
    else:
        # sorted and then shuffled: the order of a log tells who bought what next
        item_ids = np.random.default_rng(args.seed).permutation(sorted(given.items)).tolist()
        splits = given.split(item_ids)
        vectors, made["affinity"] = item_vectors(vector_sources(args.vectors), item_ids, titles, splits, args.seed)
        made["codebook_sizes"] = list(args.codebook_sizes or default_sizes(len(item_ids)))
        quantize = QUANTIZERS[args.quantizer]
        codes, made["residual"], codebooks = quantize(vectors, tuple(made["codebook_sizes"]), seed=args.seed)
    made |= {"distinct_codes": len(np.unique(codes, axis=0)), "items_that_collided": colliding(codes)}
    if args.on_collision == "nearest" and made["items_that_collided"]:
        assert codebooks is not None  # since there is no index
        codes = spread(codes, codebooks, vectors, item_ids)
    users, read = given.users, given.counts
    del given  # the log, which nothing below reads
    known = _known_titles(item_ids, titles)
    keep_or_extend: Collisions = "keep" if args.on_collision == "keep" else "extend"
    catalog = Catalog.from_codes(item_ids, codes, on_collision=keep_or_extend, titles=known)
    counts = {"users": users, "items": len(catalog)} | read | _counts(catalog, splits)
    counts |= {"titles_matched": sum(map(bool, known))} | made
    save_prepared(args.output_dir, catalog, splits, counts, deciding(args), codebooks.save if codebooks else None)
    return counts


def deciding(args: DataArguments) -> dict[str, Any]:
    """The settings that decide what is prepared, as the marker of a prepared folder holds them."""
    undecided = {"output_dir", "cache"} | ({"codebook_sizes", "quantizer"} if args.index else set())
    return {name: value for name, value in asdict(args).items() if name not in undecided}


def check_prepared(folder: str | Path, args: DataArguments, recipe: str) -> None:
    """Raise InputError where a folder was prepared with other settings than those of a recipe.

    Of files the names count, since a data set may be moved; settings that the folder does not know yet are left out.
    """
    kept, wanted = sealed(Path(folder), "The prepared folder")["settings"], deciding(args)
    for name in [name for name in wanted if name in kept]:
        here, there = (Path(v).name if name in FILES and v else v for v in (kept[name], wanted[name]))
        if here != there:
            raise InputError(
                f"{folder} was prepared with {name}={kept[name]!r}, and {recipe} says {wanted[name]!r}.",
                remedy=f"Prepare it again, or give --data {folder} to use it as it is.",
                file=folder,
                field=name,
                value=kept[name],
            )


class Given(NamedTuple):
    """What was read. items: the ids of all items. split: from the ids of the catalog to the splits."""

    items: Collection[str]
    split: Callable[[Sequence[str]], Splits]
    users: int
    counts: dict[str, Any]


def _read(args: DataArguments) -> Given:
    return _read_rows(args) if args.log is None else _read_log(args, args.log)


def _read_log(args: DataArguments, path: str) -> Given:
    if path == "movielens-100k":
        events = read_log(fetch_movielens_100k(args.cache) / "ml-100k.inter")
    else:
        events = read_log(path, as_table("columns", args.columns) or None)
    changed = {str(name): count for name, count in events.attrs.items()}
    events = k_core(events, args.min_interactions)  # one name, so that what went before is let go
    events = in_order(events)
    if args.users is not None:
        events = events[events["user"].isin(events["user"].unique()[: args.users])]

    def split(item_ids: Sequence[str]) -> Splits:
        if args.split == "time":
            return by_time(events, item_ids, args.max_history, args.split_at or QUANTILES)
        splits = leave_one_out(events, item_ids, args.max_history)
        if not len(splits.train):
            raise InputError(
                f"{path} leaves no training row: no user has more than 3 interactions, and the last two are held out.",
                remedy="Give a longer log, or keep more users.",
                file=path,
            )
        return splits

    return Given(events["item"].unique(), split, events["user"].nunique(), {"interactions": len(events)} | changed)


def _read_rows(args: DataArguments) -> Given:
    frames = {name: read_rows(path, as_table("columns", args.columns)) for name, path in args.files.items()}
    users: set[str] = set().union(*(frame["user"] for frame in frames.values()))
    items: set[str] = set().union(*(frame["target"] for frame in frames.values()))
    items.update(*(history for frame in frames.values() for history in frame["history"]))
    return Given(items, lambda item_ids: own_splits(args.files, frames, item_ids, args.max_history), len(users), {})


def _titles(args: DataArguments) -> dict[str, str]:
    if args.log == "movielens-100k":
        return read_titles(fetch_movielens_100k(args.cache) / "ml-100k.item")
    return read_items(args.items) if args.items else {}


def _counts(catalog: Catalog, splits: Splits) -> dict[str, Any]:
    """What the catalog and the splits hold, and how many held-out rows are out of reach, and why."""
    trained = training_counts(splits, len(catalog))
    counts: dict[str, Any] = {
        "held_out": splits.held_out.test,
        "training_events": int(trained.sum()),
        "training_rows": len(splits.train),
        "validation_rows": len(splits.validation),
        "test_rows": len(splits.test),
        "untrained_items": int((trained == 0).sum()),
        "levels": catalog.trie.levels,
        "semantic_ids": catalog.trie.leaves,
        "leaf_is_item": catalog.leaf_is_item,
        "unrankable": {name: int(unrankable(getattr(splits, name)).sum()) for name in HELD_OUT},
        "without_history": dict(splits.held_out.without_history),
    }
    unseen = {name: untrained(splits, len(catalog), name) for name in HELD_OUT}
    return counts | {what: {name: unseen[name][what] for name in HELD_OUT} for what in unseen["test"]}


def _known_titles(item_ids: Sequence[str], titles: dict[str, str]) -> list[str]:
    """The title of each item, "" for none; [] where no item has one, with a warning if titles were given."""
    known = [titles.get(item, "") for item in item_ids]
    if any(known):
        return known
    if titles:
        given = sum(map(bool, titles.values()))
        logger.warning(
            "No item has a title: the table has titles of %d items, the first of them %r, and the log has items like "
            "%r. Check that ids are the same and that the column is called title.",
            given,
            next(iter(titles)),
            item_ids[0],
        )
    return []
