"""Items that come later: codes by what is kept of the quantizer, in a catalog that grows and moves nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import sealed
from catalog.ids import normal_ids, refuse_repeated
from interactions import check_free, load_prepared, read_items, read_vectors, save_prepared, vector_ids
from semantic_ids.codebooks import Codebooks
from semantic_ids.free_ids import FreeIds
from semantic_ids.interaction_vectors import INTERACTION_VECTORS
from semantic_ids.settings import ExtendArguments
from semantic_ids.vectors import fuse, vector_sources, vectors_from_titles


def extend(
    catalog: Catalog,
    codebooks: Codebooks,
    item_ids: Sequence[str],
    vectors: np.ndarray,
    titles: Sequence[str] = (),
) -> Catalog:
    """The catalog with further items, whose semantic IDs are those of their vectors.

    An item gets the nearest codes level by level. Where another item has that semantic ID already it gets the nearest
    last code that is free, or else the nearest one before it with a free one below; the code that `on_collision:
    extend` appended counts as free in the order of its numbers. Only codes that some item of `catalog` has are given,
    since a trained model knows no other. The items that were there keep their semantic IDs and numbers.

    Args:
        catalog: whose semantic IDs `codebooks` are of.
        codebooks: what `prepare` kept of the quantizer, `Codebooks.load`.
        item_ids: of the new items, in the form of `normal_ids`.
        vectors: [new, d], from the model that made those of the catalog.
        titles: of the new items, "" for one without; () for none.

    Raises:
        InputError: an item is there already or given twice, vectors are of another width or not finite, the codebooks
            are of another catalog, or no semantic ID is left.
    """
    ids = normal_ids(item_ids, "the item").texts
    refuse_repeated(ids, "The list of new items")
    if len(ids) != len(vectors) or not len(ids):
        raise InputError(
            f"{len(ids)} new items with {len(vectors)} vectors.",
            remedy="Give at least one item, and each its vector.",
            field="vectors",
            value=len(vectors),
        )
    free = FreeIds(catalog.trie.codes(torch.arange(len(catalog))).numpy(), codebooks)
    codes = [free.take(residual, item) for residual, item in zip(codebooks.encode(vectors), ids, strict=True)]
    return catalog.grow(ids.tolist(), np.array(codes, np.int64), titles)


def extend_prepared(data: str | Path, output_dir: str | Path, **settings: Any) -> dict[str, Any]:
    """A prepared folder with further items in its catalog, whole or not at all; the rows are the same.

    Args:
        data: the prepared folder, which keeps its codebooks.
        output_dir: the folder to write; one that was prepared before is replaced.
        settings: the others of `ExtendArguments`: `vectors`, `items`.

    Returns:
        What was counted, which metrics.json of the folder holds too.

    Raises:
        InputError: see `extend`; and for a folder without codebooks, and files that cannot be read.
        SetupError: the disk is full, or another process prepares the same folder.
    """
    args = ExtendArguments(data=str(data), output_dir=str(output_dir), **settings)
    check_free(Path(args.output_dir))  # before the work, too
    catalog, splits = load_prepared(args.data)
    codebooks = Codebooks.load(args.data)
    deciding = sealed(Path(args.data), "The prepared folder")["settings"]
    _check_sources(deciding, args.vectors, Path(args.data))
    titles = read_items(args.items) if args.items else {}
    files = [source for source in args.vectors if Path(source).suffix == ".npz"]
    item_ids = vector_ids(files[0]) if files else list(titles)
    parts = [
        read_vectors(source, item_ids, refuse_equal=False)
        if source in files
        else vectors_from_titles(Path(source), item_ids, titles)
        for source in args.vectors
    ]
    vectors = fuse(parts)
    known = [titles.get(item, "") for item in item_ids]
    grown = extend(catalog, codebooks, item_ids, vectors, known if any(known) else ())
    given = grown.trie.codes(torch.arange(len(catalog), len(grown)))[:, : codebooks.levels].numpy()
    counts = {
        "items": len(grown),
        "new_items": len(item_ids),
        "nearest_codes": int((codebooks.codes(vectors) == given).all(1).sum()),
        "semantic_ids": grown.trie.leaves,
        "leaf_is_item": grown.leaf_is_item,
        "titles_matched": sum(map(bool, known)),
    }
    save_prepared(args.output_dir, grown, splits, counts, deciding, codebooks.save)
    return counts


def _check_sources(deciding: Mapping[str, Any], vectors: Sequence[str], data: Path) -> None:
    """Raise InputError unless `vectors` can stand for what the semantic IDs were made from, one source for each.

    Vectors of another origin may have the same width, so the codebooks alone would not notice them.
    """
    if "vectors" not in deciding:  # a folder of `save_prepared`, whose vectors nothing names
        return
    made_from = vector_sources(deciding["vectors"])
    if learned := [source for source in made_from if source in INTERACTION_VECTORS]:
        raise InputError(
            f"The semantic IDs of {data} were made from interactions ({learned[0]}), which new items do not have.",
            remedy="Prepare the log with vectors of a file or of titles, and train again.",
            file=data,
            field="vectors",
            value=learned[0],
        )
    if len(vectors) != len(made_from):
        raise InputError(
            f"{len(vectors)} sources of vectors for semantic IDs that were made from {len(made_from)}.",
            remedy=f"Give one for each of {', '.join(made_from)}, in this order.",
            field="vectors",
            value=len(vectors),
        )
