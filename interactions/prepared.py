"""A prepared folder: catalog, splits and counts, whole or absent."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import MARKER, complete, locked, seal, sealed, write_json
from interactions.provenance import Provenance
from interactions.rows import check_rows
from interactions.split import NAMES, Splits

FILES = {
    "catalog.arrow",
    "catalog.json",
    "catalog.safetensors",
    "codebooks.json",
    "codebooks.safetensors",
    "metrics.json",
    "splits",
    MARKER,
}


def save_prepared(
    folder: str | Path,
    catalog: Catalog,
    splits: Splits,
    counts: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write catalog, splits and metrics.json as one folder, marked as complete.

    A folder that was prepared before is replaced as a whole: a killed process leaves the old one or the new one.
    counts: what metrics.json holds. settings: what decided the result, for the marker; values as JSON has them.
    beside: writes the codebooks of the semantic IDs into the folder that it is given.
    Raises InputError where rows and catalog do not fit, and for a folder with other files, which are never removed;
    SetupError where another process prepares the same folder or the disk is full.
    """
    folder = Path(folder).resolve()
    made_of = _provenance(catalog, splits, settings or {})
    with locked(folder.parent, f".{folder.name}.lock"):  # beside the folder, which is replaced
        check_free(folder)
        with complete(folder) as temporary:
            catalog.save(temporary)
            splits.save(temporary / "splits")
            write_json(temporary / "metrics.json", dict(counts or {}))
            if beside:
                beside(temporary)
            seal(temporary, made_of.as_dict())


def load_prepared(folder: str | Path) -> tuple[Catalog, Splits]:
    """The catalog and the splits that `save_prepared` wrote.

    Raises InputError for a folder that is missing, not complete, or holds a catalog or rows other than it was
    completed with.
    """
    folder = Path(folder)
    again = "Prepare it again: python recipes/prepare.py ... --output_dir " + str(folder)
    if not (folder / "catalog.json").is_file():
        raise InputError(f"{folder} holds no prepared data.", remedy=again, file=folder)
    written = Provenance.from_dict(sealed(folder, "The prepared folder"))
    catalog, splits = Catalog.load(folder), Splits.load(folder / "splits")
    found = _provenance(catalog, splits, written.settings)
    found.check(written, f"The prepared folder {folder}", again, folder)
    return catalog, splits


def check_free(folder: Path) -> None:
    """Raise InputError where `folder` is something other than a prepared folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", remedy="Prepare into another folder.", file=folder)
    inside = [path for path in folder.rglob("*") if not path.is_dir()] if folder.is_dir() else []
    names = [path.relative_to(folder) for path in inside]
    other = [
        name for name in names if name.parts[0] not in FILES or name.suffix not in (".json", ".safetensors", ".arrow")
    ]
    if other:
        raise InputError(
            f"{folder} holds other files than a prepared folder does ({min(other)}), which would be removed.",
            remedy="Prepare into another folder, or move them away.",
            file=folder,
            value=str(min(other)),
        )


def _provenance(catalog: Catalog, splits: Splits, settings: Mapping[str, Any]) -> Provenance:
    """What a prepared folder is made of. Raises InputError for rows that the catalog does not fit."""
    for name in NAMES:
        if len(rows := getattr(splits, name)):
            check_rows(name, rows, len(catalog))
    return Provenance.from_rows(catalog.fingerprint, splits.rows, settings)
