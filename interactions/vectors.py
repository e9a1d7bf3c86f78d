"""The vectors of items, from numpy's files."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from catalog.errors import InputError
from catalog.ids import normal_ids, refuse_repeated


def read_vectors(path: str | Path, item_ids: Sequence[str], *, refuse_equal: bool = True) -> np.ndarray:
    """The vectors of items, [items, d] float32, in the order of `item_ids`.

    .npz: `vectors` and `ids`, of more items too; .npy: rows in the order of the sorted ids, numbers by value, and
    numbers of one value as text.
    refuse_equal: whether vectors that are all the same are refused; a few further items may have equal ones.
    Raises InputError for an item without a vector, another number of rows, and vectors that are no finite numbers.
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays = _arrays(path, "ids", "vectors")
        ids, vectors = _named(arrays["ids"], path), arrays["vectors"]
    else:
        vectors = _arrays(path)["vectors"]
        numeric = all(item.isdecimal() for item in item_ids)
        ids = sorted(item_ids, key=lambda item: (int(item) if numeric else 0, item))
    if vectors.ndim != 2 or len(vectors) != len(ids) or not vectors.size:
        raise InputError(
            f"{path} has vectors of shape {list(vectors.shape)} for {len(ids)} items.",
            remedy="Give one row per item that is left of the log, in the order of the sorted item ids, or a .npz file "
            "with ids.",
            file=path,
            field="vectors",
            value=vectors.shape,
        )
    row = {item: number for number, item in enumerate(ids)}
    if absent := [item for item in item_ids if item not in row]:
        raise InputError(
            f"{path} has no vector of item {absent[0]} ({len(absent)} such items).",
            remedy="Add them.",
            file=path,
            row=absent[0],
        )
    vectors = _finite(vectors[[row[item] for item in item_ids]], item_ids, path)
    if refuse_equal and len(vectors) > 1 and (vectors == vectors[0]).all():
        raise InputError(
            f"{path} has the same vector for every item, which tells none apart.",
            remedy="Give each item a vector of its own.",
            file=path,
            field="vectors",
        )
    return vectors


def vector_ids(path: str | Path) -> list[str]:
    """The ids that a .npz file of vectors names, in its order. Raises InputError as `read_vectors` does."""
    return _named(_arrays(Path(path), "ids")["ids"], Path(path))


def _named(ids: np.ndarray, path: Path) -> list[str]:
    named = normal_ids(ids.ravel(), "the id", path, "ids").texts
    refuse_repeated(named, "ids", path)
    return named.tolist()


def _arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The named arrays of a .npz file; of a .npy file the only one, as `vectors`. Nothing is unpickled."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray) == bool(names):
            held, end = ("one array", ".npy") if names else ("named arrays", ".npz")
            raise InputError(
                f"{path} holds {held}, as a {end} file does.", remedy=f"Let its name end in {end}.", file=path
            )
        if missing := set(names) - set(loaded if names else ()):
            raise InputError(
                f"{path} has no array called {min(missing)}.",
                remedy="Save it with np.savez(ids=..., vectors=...).",
                file=path,
                field=min(missing),
            )
        return {name: loaded[name] for name in names} if names else {"vectors": loaded}
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        remedy = "Write it again."
        if "Object arrays" in str(error):
            remedy = (
                "Save ids as text or integers, for instance ids=np.asarray(ids, dtype=str): arrays of Python objects "
                "are not read."
            )
        raise InputError(f"{path} cannot be read ({error}).", remedy=remedy, file=path) from error


def _finite(vectors: np.ndarray, item_ids: Sequence[str], path: Path) -> np.ndarray:
    """Vectors as float32. Raises InputError for what is no number or not finite."""
    if vectors.dtype.kind not in "fiu":
        raise InputError(f"{path} has vectors of {vectors.dtype}.", remedy="Save numbers.", file=path, field="vectors")
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32)
    if (bad := ~np.isfinite(vectors).all(1)).any():
        raise InputError(
            f"{path}: the vector of item {item_ids[bad.argmax()]} is not finite ({bad.sum()} such items).",
            remedy="Mend them, or leave these items out of the log.",
            file=path,
            row=item_ids[bad.argmax()],
            field="vectors",
        )
    return vectors
