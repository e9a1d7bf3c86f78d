"""Vectors to make semantic IDs from: of training interactions, files or titles, one kind or several fused."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from catalog.errors import InputError
from catalog.extras import extra
from interactions import Splits, read_vectors, training_sequences
from interactions.rows import arrow_column
from semantic_ids.interaction_vectors import INTERACTION_VECTORS

logger = logging.getLogger(__name__)
PAIRS = 20_000
"""The largest number of pairs of successive items that are compared."""
FAITHFUL = 0.1
"""Affinity below which vectors or codes hardly belong to the log's items: Amazon Beauty's index has 0.39 on its own
log, and 0.08 on that of Amazon Instruments, whose items have numbers too."""


def vector_sources(setting: Sequence[str] | str | None) -> list[str]:
    """What the setting `vectors` of `prepare` names; without it the co-occurrence of the interactions."""
    return [setting] if isinstance(setting, str) else list(setting or ["cooccurrence"])


def item_vectors(
    sources: Sequence[str], item_ids: Sequence[str], titles: Mapping[str, str], splits: Splits, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Vectors [items, d] float32 in the order of `item_ids`, and the `affinity` of each source.

    Several sources give their unit vectors side by side. A low affinity is logged as a warning.

    sources: names of `INTERACTION_VECTORS`, files .npz or .npy, folders of sentence-transformers models.
    Raises InputError for a source that is none of these, or does not have every item.
    """
    parts = [_vectors_from_source(source, item_ids, titles, splits, seed) for source in sources]
    alike = {source: affinity(part, splits) for source, part in zip(sources, parts, strict=True)}
    for source, found in alike.items():
        if found < FAITHFUL:
            logger.warning(
                "%s: items that follow each other have vectors hardly more alike than items at random (affinity %.2f). "
                "Check that every row belongs to its item; a .npz file with ids leaves no doubt.",
                source,
                found,
            )
    return fuse(parts), alike


def fuse(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Several vectors of the same items as one, [items, sum of d]; one alone stays as it is."""
    if len(parts) == 1:
        return parts[0]
    # unit vectors, so that each source counts alike, whatever its number of dimensions
    units = [part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12) for part in parts]
    return np.concatenate(units, 1)


def affinity(vectors: np.ndarray, splits: Splits) -> float:
    """How much more alike an item and the user's next one are than two at random: cosines, in standard deviations.

    vectors [items, d] in the order of the catalog; pairs are of training sequences only, and items at random are as
    popular as the next ones. It is about 0 where rows belong to other items, of which IDs would be noise.
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    return _more_alike(lambda item, other: (unit[item] * unit[other]).sum(1), splits)[0]


def index_affinity(codes: np.ndarray, splits: Splits) -> float:
    """The same of semantic IDs [items, L]: how many more leading codes successive items share, in standard deviations.

    Logs a warning where it is small or within three standard errors of 0, as for an index of other items.
    """

    def shared(item: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (codes[item] == codes[other]).cumprod(1).sum(1).astype(float)

    found, pairs = _more_alike(shared, splits)
    if found < FAITHFUL or found * pairs**0.5 < 3:  # standard errors
        logger.warning(
            "Items that follow each other hardly share more leading codes than others (affinity %.2f, %d pairs). "
            "Check that the index is of the log's items: another data set's ids may be called the same.",
            found,
            pairs,
        )
    return found


def _more_alike(alike: Callable[[np.ndarray, np.ndarray], np.ndarray], splits: Splits) -> tuple[float, int]:
    """How far alike(item, following) lies above alike(item, the following item of another pair), and of how many pairs.

    In standard deviations of the difference.
    """
    rng = np.random.default_rng(0)
    history = arrow_column(training_sequences(splits), "history")
    items = history.flatten().to_numpy()
    user = np.repeat(np.arange(len(history), dtype=np.int32), history.value_lengths())
    first = np.flatnonzero((user[1:] == user[:-1]) & (items[1:] != items[:-1]))  # of each pair of successive items
    if not len(first):
        return 0.0, 0
    chosen = first[rng.permutation(len(first))[:PAIRS]]
    item, following = items[chosen], items[chosen + 1]
    more = alike(item, following) - alike(item, rng.permutation(following))
    return float(more.mean() / max(more.std(), 1e-12)), len(item)


def _vectors_from_source(
    source: str, item_ids: Sequence[str], titles: Mapping[str, str], splits: Splits, seed: int
) -> np.ndarray:
    if source in INTERACTION_VECTORS:
        return INTERACTION_VECTORS[source](splits, len(item_ids), seed)
    path = Path(source)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return read_vectors(path, item_ids)
    if (path / "config.json").is_file():
        return vectors_from_titles(path, item_ids, titles)
    known = ", ".join(INTERACTION_VECTORS)
    raise InputError(
        f"vectors: {source!r} is none of {known}, no .npy or .npz file and no folder of a model.", field="vectors"
    )


def vectors_from_titles(path: Path, item_ids: Sequence[str], titles: Mapping[str, str]) -> np.ndarray:
    """What the sentence-transformers model in a folder makes of the titles of items, [items, d] float32.

    Raises InputError where no item has a title, SetupError without sentence-transformers.
    """
    if absent := [item for item in item_ids if not titles.get(item)]:
        if len(absent) == len(item_ids):
            raise InputError(
                f"vectors: {path} reads titles, and there are none.",
                remedy="Give the item table as items.",
                field="vectors",
            )
        counts = len(absent), len(item_ids)
        logger.warning("%s: %d of %d items have no title, so their vectors say nothing", path, *counts)
    with extra("text", f"vectors={path}", field="vectors"):
        from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), local_files_only=True)
    return model.encode([titles.get(item, "") for item in item_ids], show_progress_bar=True, convert_to_numpy=True)
