"""An interaction log into a prepared folder: the catalogue with its semantic IDs, and the splits."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from catalog import Catalog
from catalog.errors import InputError
from catalog.settings import as_table
from interactions import (
    Splits,
    check_free,
    fetch_movielens_100k,
    in_order,
    k_core,
    leave_one_out,
    read_items,
    read_log,
    read_titles,
    save_prepared,
    unrankable,
)
from semantic_ids.index import colliding, read_index
from semantic_ids.quantizer import QUANTIZERS
from semantic_ids.settings import DataArguments
from semantic_ids.vectors import index_affinity, item_vectors

logger = logging.getLogger(__name__)


def prepare(args: DataArguments) -> dict[str, Any]:
    """Log -> catalogue and splits in args.output_dir, whole or not at all; returns what was counted."""
    check_free(Path(args.output_dir))  # before the work, too
    log, titles = _read(args)
    changed = dict(log.attrs)
    log = in_order(k_core(log, args.min_interactions))
    if args.users is not None:
        if args.users < 1:
            raise InputError(
                f"users={args.users} keeps nobody.", remedy="Set it to 1 or more.", field="users", value=args.users
            )
        log = log[log["user"].isin(log["user"].unique()[: args.users])]
    made: dict[str, Any] = {}
    item_ids: Sequence[str]
    if args.index:
        item_ids, codes = read_index(args.index)
        splits = _split(log, item_ids, args)
        made["affinity"] = {args.index: index_affinity(codes, splits)}
    else:
        # sorted and then shuffled: the order of a log tells who bought what next
        item_ids = np.random.default_rng(args.seed).permutation(sorted(log["item"].unique())).tolist()
        splits = _split(log, item_ids, args)
        vectors, made["affinity"] = item_vectors(_listed(args.vectors), item_ids, titles, splits, args.seed)
        codes, made["residual"] = QUANTIZERS[args.quantizer](vectors, tuple(args.codebook_sizes), seed=args.seed)
    made |= {"distinct_codes": len(np.unique(codes, axis=0)), "items_that_collided": colliding(codes)}
    known = _known_titles(item_ids, titles)
    catalog = Catalog.from_codes(item_ids, codes, on_collision=args.on_collision, titles=known)
    counts = {
        "users": len(splits.test),
        "items": len(catalog),
        "interactions": len(log),
        "training_rows": len(splits.train),
        "levels": catalog.trie.levels,
        "semantic_ids": catalog.trie.leaves,
        "leaf_is_item": catalog.leaf_is_item,
        "titles_matched": sum(map(bool, known)),
        "unrankable": {name: int(unrankable(getattr(splits, name)).sum()) for name in ("validation", "test")},
    }
    counts |= changed | made
    settings = {name: value for name, value in asdict(args).items() if name not in ("output_dir", "cache")}
    save_prepared(args.output_dir, catalog, splits, counts, settings)
    return counts


def _read(args: DataArguments) -> tuple[Any, dict[str, str]]:
    columns = as_table("columns", args.columns) or None
    if args.log != "movielens-100k":
        return read_log(args.log, columns), read_items(args.items) if args.items else {}
    folder = fetch_movielens_100k(args.cache)
    return read_log(folder / "ml-100k.inter"), read_titles(folder / "ml-100k.item")


def _split(log: Any, item_ids: Sequence[str], args: DataArguments) -> Splits:
    splits = leave_one_out(log, item_ids, args.max_history)
    if not len(splits.train):
        raise InputError(
            f"{args.log} leaves no training row: no user has more than 3 interactions, and the last two are held out.",
            remedy="Give a longer log, or keep more users.",
            file=args.log,
        )
    return splits


def _known_titles(item_ids: Sequence[str], titles: dict[str, str]) -> list[str]:
    """The title of each item, "" for none; [] where no item has one, of which is warned if titles were given."""
    known = [titles.get(item, "") for item in item_ids]
    if any(known):
        return known
    if titles:
        logger.warning(
            "No item has a title: the table has titles of %d items, the first of them %r, and the log has items like "
            "%r. Check that ids are the same and that the column is called title.",
            *(sum(map(bool, titles.values())), next(iter(titles)), item_ids[0]),
        )
    return []


def _listed(value: list[str] | str | None) -> list[str]:
    return [value] if isinstance(value, str) else value or ["cooccurrence"]
