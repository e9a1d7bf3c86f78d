"""Vectors to make semantic IDs from: of training interactions, files or titles, one kind or several fused."""

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from catalog.errors import InputError
from collaborative import COLLABORATIVE_VECTORS
from interactions import Splits

logger = logging.getLogger(__name__)
PAIRS = 20_000
"""So many pairs of successive items are compared at most."""


def item_vectors(
    sources: Sequence[str], item_ids: Sequence[str], titles: Mapping[str, str], splits: Splits, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Vectors [items, d] float32 in the order of `item_ids`; of several sources the unit vectors side by side.

    Beside them the `affinity` of each source; a low one is warned of.
    sources: names of `COLLABORATIVE_VECTORS`, files .npz or .npy, folders of sentence-transformers models.
    Raises InputError for a source that is none of these, or does not have every item.
    """
    parts = [_of_source(source, item_ids, titles, splits, seed) for source in sources]
    alike = {source: affinity(part, splits) for source, part in zip(sources, parts, strict=True)}
    for source, found in alike.items():
        if found < 0.1:
            logger.warning(
                "%s: items that follow each other have vectors hardly more alike than items at random (affinity %.2f). "
                "Check that every row belongs to its item; a .npz file with ids leaves no doubt.",
                *(source, found),
            )
    if len(parts) == 1:
        return parts[0], alike
    # so that what two items have in common counts alike in each, whatever its number of dimensions
    units = [part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12) for part in parts]
    return np.concatenate(units, 1), alike


def affinity(vectors: np.ndarray, splits: Splits) -> float:
    """How much more alike an item and the user's next one are than two at random: cosines, in standard deviations.

    vectors [items, d] in the order of the catalogue; pairs are of training sequences only, and items at random are as
    popular as the next ones. About 0 where rows belong to other items: all would run, and the IDs would be noise.
    """
    rng = np.random.default_rng(0)
    successive = [(a, b) for history in splits.validation["history"] for a, b in pairwise(history) if a != b]
    if not successive:
        return 0.0
    item, following = rng.permutation(successive)[:PAIRS].T
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    more = (unit[item] * (unit[following] - unit[rng.permutation(following)])).sum(1)
    return float(more.mean() / max(more.std(), 1e-12))


def _of_source(
    source: str, item_ids: Sequence[str], titles: Mapping[str, str], splits: Splits, seed: int
) -> np.ndarray:
    if source in COLLABORATIVE_VECTORS:
        return COLLABORATIVE_VECTORS[source](splits, len(item_ids), seed)
    path = Path(source)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return _of_file(path, item_ids)
    if (path / "config.json").is_file():
        return _of_titles(path, item_ids, titles)
    known = ", ".join(COLLABORATIVE_VECTORS)
    raise InputError(
        f"vectors: {source!r} is none of {known}, no .npy or .npz file and no folder of a model.", field="vectors"
    )


def _of_file(path: Path, item_ids: Sequence[str]) -> np.ndarray:
    """.npz: `vectors` and `ids`, of more items too; .npy: rows in the order of the sorted ids, numbers by value."""
    loaded = np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        if missing := {"ids", "vectors"} - set(loaded):
            raise InputError(
                f"{path} has no array called {min(missing)}.",
                remedy="Save it with np.savez(ids=..., vectors=...).",
                file=path,
            )
        ids, vectors = loaded["ids"].astype(str).tolist(), loaded["vectors"]
    else:
        vectors = loaded
        ids = sorted(item_ids, key=int if all(item.isdecimal() for item in item_ids) else str)
    if len(vectors) != len(ids):
        raise InputError(
            f"{path} has {len(vectors)} rows for {len(ids)} items.",
            remedy="Give one row per item that is left of the log, in the order of the sorted item ids, or a .npz file "
            "with ids.",
            file=path,
        )
    row = {item: number for number, item in enumerate(ids)}
    if absent := [item for item in item_ids if item not in row]:
        raise InputError(
            f"{path} has no vector of item {absent[0]} ({len(absent)} such items).", remedy="Add them.", file=path
        )
    return vectors[[row[item] for item in item_ids]].astype(np.float32)


def _of_titles(path: Path, item_ids: Sequence[str], titles: Mapping[str, str]) -> np.ndarray:
    if absent := [item for item in item_ids if not titles.get(item)]:
        if len(absent) == len(item_ids):
            raise InputError(
                f"vectors: {path} reads titles, and there are none.",
                remedy="Give the item table as items.",
                field="vectors",
            )
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise InputError(
            f"vectors: {path} needs a package.", remedy="Run pip install 'gflowgr[text]'.", field="vectors"
        ) from error
    model = SentenceTransformer(str(path), local_files_only=True)
    return model.encode([titles.get(item, "") for item in item_ids], show_progress_bar=True, convert_to_numpy=True)
