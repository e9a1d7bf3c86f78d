"""Fitted recommenders in folders: fitted once, and loaded where nothing has changed since."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import complete, read_json, write_json
from collaborative.base import Recommender
from collaborative.factors import ALS, BPR
from collaborative.item_knn import ItemKNN
from collaborative.mixture import Mixture
from collaborative.popularity import Popularity
from collaborative.sasrec import SASRec
from interactions import Splits

RECOMMENDERS: dict[str, Any] = {"popularity": Popularity, "item_knn": ItemKNN, "sasrec": SASRec, "als": ALS, "bpr": BPR}
"""Kind -> class with `Settings`, `from_splits(splits, items, settings)`, `state()` and `from_state(*state)`.

`state()` gives named tensors and numbers that JSON can hold. The one further kind, "mixture", has no state of its own.
"""
RECORD, TENSORS = "recommender.json", "model.safetensors"


def fit_recommender(
    kind: str, settings: Mapping[str, Any], splits: Splits, catalog: Catalog, folder: str | Path
) -> Recommender:
    """The recommender in `folder`; fitted and written there unless one of the same kind, settings and data is.

    A mixture is made of folders beside `folder`, which its `weights` name, and keeps copies of them.

    Raises:
        InputError: the kind or a setting is unknown, or a part of a mixture is missing or was fitted on other data.
    """
    folder = Path(folder)
    chosen = _settings(kind, settings)
    record: dict[str, Any] = {"kind": kind, "settings": asdict(chosen)}
    record |= {"catalog": catalog.fingerprint, "data": _digest(splits)}
    if kind == "mixture":
        return _mix(record, catalog, folder)
    if (folder / RECORD).is_file() and record.items() <= _read(folder).items():
        return load_recommender(folder, catalog)
    started = time.perf_counter()
    model = RECOMMENDERS[kind].from_splits(splits, len(catalog), chosen)
    seconds = time.perf_counter() - started
    tensors, numbers = model.state()
    with complete(folder) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / TENSORS)
        write_json(temporary / RECORD, record | {"numbers": numbers, "seconds": seconds})
    return model


def load_recommender(folder: str | Path, catalog: Catalog) -> Recommender:
    """The recommender that `fit_recommender` wrote to `folder`.

    Raises:
        InputError: there is none, or it was fitted on the items of another catalogue.
    """
    folder = Path(folder)
    record = _read(folder)
    if record["catalog"] != catalog.fingerprint:
        raise InputError(
            f"The recommender in {folder} was fitted for catalogue {record['catalog']}, not for "
            f"{catalog.fingerprint}: its item numbers mean other items.",
            remedy="Fit it on the data of this run.",
        )
    if record["kind"] == "mixture":
        weights = Mixture.Settings(**record["settings"]).weights  # checked, since they name folders
        return Mixture({name: load_recommender(folder / name, catalog) for name in weights}, weights)
    return RECOMMENDERS[record["kind"]].from_state(load_file(folder / TENSORS), record["numbers"])


def _mix(record: dict[str, Any], catalog: Catalog, folder: Path) -> Mixture:
    """The mixture of the folders beside `folder`, copied into it."""
    weights = record["settings"]["weights"]
    mixture = Mixture({name: load_recommender(folder.parent / name, catalog) for name in weights}, weights)
    parts = {name: _read(folder.parent / name) for name in weights}
    if other := [name for name, part in parts.items() if part["data"] != record["data"]]:
        raise InputError(f"{folder.parent / other[0]} was fitted on other interactions.", remedy="Fit it again first.")
    with complete(folder) as temporary:
        temporary.mkdir()
        for name in parts:
            shutil.copytree(folder.parent / name, temporary / name)
        write_json(temporary / RECORD, record | {"seconds": sum(part["seconds"] for part in parts.values())})
    return mixture


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / RECORD).is_file():
        raise InputError(
            f"{folder} holds no fitted recommender.",
            remedy="Fit it first: python recipes/recommenders.py.",
            file=folder,
        )
    return read_json(folder / RECORD, "The recommender's record")


def _settings(kind: str, settings: Mapping[str, Any]) -> Any:
    """The `Settings` of a kind, with the defaults of those that are not given."""
    kinds = RECOMMENDERS | {"mixture": Mixture}
    if kind not in kinds:
        raise InputError(f"{kind!r} is not a kind of recommender.", remedy=f"Choose one of {sorted(kinds)}.")
    known = [field.name for field in fields(kinds[kind].Settings)]
    if unknown := sorted(settings.keys() - set(known)):
        raise InputError(f"{unknown[0]} is not a setting of {kind}.", remedy=f"It has {', '.join(known) or 'none'}.")
    return kinds[kind].Settings(**settings)


def _digest(splits: Splits) -> str:
    """Of all that a recommender is fitted on: training sequences and validation items."""
    rows = splits.validation
    return hashlib.sha256(json.dumps([rows["history"][:], rows["target"][:]]).encode()).hexdigest()
