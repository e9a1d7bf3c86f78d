"""Fitted recommenders in folders: fitted once, and loaded where nothing has changed since."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import broken, digests, read_json, sealed, sealing, write_json
from catalog.settings import annotations, check_known, check_table
from interactions import Splits
from interactions.provenance import Provenance
from recommenders.base import Recommender
from recommenders.cross_fitted import CrossFitted
from recommenders.factors import ALS, BPR
from recommenders.generative import GenerativeRecommender
from recommenders.item_knn import ItemKNN
from recommenders.mixture import Mixture
from recommenders.policy_folder import copy_policy, holds_policy
from recommenders.popularity import Popularity
from recommenders.sasrec import OnEpoch, SASRec
from recommenders.text_knn import TextKNN

RECOMMENDERS: dict[str, Any] = {
    "popularity": Popularity,
    "item_knn": ItemKNN,
    "sasrec": SASRec,
    "als": ALS,
    "bpr": BPR,
    "text_knn": TextKNN,
}
"""Kind -> class with `Settings`, `from_splits(splits, items, settings)`, `state()` and `from_state(*state)`.

One that reads more of the items than how many there are has `from_catalog(splits, catalog, settings)` instead.
`state()` gives named tensors and numbers that JSON can hold. Three further kinds are made of others: "mixture",
"cross_fitted", and "policy", the policy of the finished run that its setting `run` names.
"""
RECORD, TENSORS, COPY = "recommender.json", "model.safetensors", "policy"


def fit_recommender(
    kind: str, settings: Mapping[str, Any], splits: Splits, catalog: Catalog, folder: str | Path
) -> Recommender:
    """The recommender in `folder`; fitted and written there unless one of the same kind, settings and data is.

    A mixture is made of folders beside `folder`, which its `weights` name, and keeps copies of them; so is what is
    cross-fitted, of the one that its `of` names.

    Raises:
        InputError: the kind or a setting is unknown, what it is made of is missing or was fitted on other data, or
            `folder` holds something else.
    """
    folder, rows = Path(folder), splits.rows
    chosen = settings_of(kind, settings)
    made = {"weights": _weights(chosen.run)} if kind == "policy" else asdict(chosen)
    if kind == "cross_fitted":
        made["part"] = _part(folder.parent / chosen.of)
    provenance = Provenance.from_rows(catalog.fingerprint, rows, {"kind": kind, **made})
    whole = (folder / RECORD).is_file() and not broken(folder) and not made_of(folder).differences(provenance)
    if whole and (kind != "mixture" or _mixed_of_these(folder, provenance.settings["weights"])):
        return load_recommender(folder, catalog)
    if kind == "mixture":
        return _mix(chosen, provenance, catalog, splits, folder)
    if kind == "policy":
        return _copy(chosen.run, provenance, catalog, rows, folder)
    started = time.perf_counter()
    if kind == "cross_fitted":
        model = _cross_fit(chosen, splits, catalog, folder.parent / chosen.of)
    else:
        model = build_recommender(kind, chosen, splits, catalog)
    seconds = time.perf_counter() - started
    tensors, numbers = model.state()
    with sealing(folder, provenance.as_dict(), replaces=RECORD) as temporary:
        save_file(tensors, temporary / TENSORS)
        write_json(
            temporary / RECORD, {"kind": kind, "settings": asdict(chosen), "numbers": numbers, "seconds": seconds}
        )
    return model


def build_recommender(
    kind: str, settings: Any, splits: Splits, catalog: Catalog, on_epoch: OnEpoch | None = None
) -> Any:
    """A recommender of `RECOMMENDERS`, fitted and kept nowhere.

    settings: the `Settings` of the kind. on_epoch: is told how each epoch went by a kind that is trained in epochs.
    """
    build = RECOMMENDERS[kind]
    if not hasattr(build, "from_catalog"):
        return build.from_splits(splits, len(catalog), settings)
    told = {"on_epoch": on_epoch} if on_epoch and "on_epoch" in annotations(build.from_catalog) else {}
    return build.from_catalog(splits, catalog, settings, **told)


def load_recommender(folder: str | Path, catalog: Catalog, rows: Mapping[str, Dataset] | None = None) -> Recommender:
    """The recommender that `fit_recommender` wrote to `folder`.

    rows: the rows of each split that it is used with, `splits.rows`, or some of the splits. They must be those that it
    was fitted on: a model of a longer log has seen what is held out here. Without rows there is no such check.

    A trained policy is one too: the folder of a finished run, or a copy that kind "policy" made.

    Raises:
        InputError: there is none, it is not whole, or it was fitted on the items of another catalog or on other rows.
    """
    folder, kept = Path(folder), made_of(folder)
    Provenance.from_rows(catalog.fingerprint, rows or {}, kept.settings).check(
        kept,
        f"The recommender in {folder}",
        "Fit it on the data of this run: python recipes/recommenders.py. To use it on other rows knowingly, in Python, "
        "pass recommender=load_recommender(folder, catalog).",
        file=folder,
    )
    if holds_policy(folder):
        return GenerativeRecommender.from_pretrained(folder, catalog=catalog)
    record = read_json(folder / RECORD, "The recommender's record")
    if record["kind"] == "policy":
        return GenerativeRecommender.from_pretrained(folder / COPY, catalog=catalog)
    if record["kind"] == "mixture":
        weights = Mixture.Settings(**record["settings"]).weights  # checked, since they name folders
        parts = {name: load_recommender(folder / name, catalog, rows) for name in weights}
        return Mixture(parts, **record.get("numbers", {"weights": weights}))  # older records have no numbers
    try:
        tensors = load_file(folder / TENSORS)
    except SafetensorError as error:
        raise InputError(
            f"{folder / TENSORS} cannot be read ({error}).", remedy="Fit it again.", file=folder / TENSORS
        ) from error
    if record["kind"] == "cross_fitted":
        return CrossFitted.from_state(
            tensors, record["numbers"], RECOMMENDERS[kept.settings["part"]["kind"]].from_state
        )
    return RECOMMENDERS[record["kind"]].from_state(tensors, record["numbers"])


def made_of(folder: str | Path) -> Provenance:
    """What the recommender in `folder` was fitted on, and how. Raises InputError where there is none that is whole."""
    folder = Path(folder)
    if holds_policy(folder) and not broken(folder):
        return Provenance.from_dict(sealed(folder, "The policy")["provenance"])
    if not (folder / RECORD).is_file():
        raise InputError(
            f"{folder} holds no fitted recommender.",
            remedy="Fit it first: python recipes/recommenders.py.",
            file=folder,
        )
    if reason := broken(folder):
        raise InputError(
            f"The recommender in {folder} is not whole: {reason}",
            remedy="Fit it again: python recipes/recommenders.py.",
            file=folder,
        )
    return Provenance.from_dict(sealed(folder, "The recommender"))


def _mix(settings: Mixture.Settings, provenance: Provenance, catalog: Catalog, splits: Splits, folder: Path) -> Mixture:
    """The mixture of the folders beside `folder`, copied into it."""
    weights = settings.weights
    parts = {name: load_recommender(folder.parent / name, catalog, splits.rows) for name in weights}
    mixture = Mixture.of_parts(parts, settings, splits.validation)
    with sealing(folder, provenance.as_dict(), replaces=RECORD) as temporary:
        for name in weights:
            shutil.copytree(folder.parent / name, temporary / name)
        seconds = sum(read_json(temporary / name / RECORD, "The recommender's record")["seconds"] for name in weights)
        record = {"kind": "mixture", "settings": asdict(settings), "numbers": mixture.numbers, "seconds": seconds}
        write_json(temporary / RECORD, record)
    return mixture


def _part(folder: Path) -> dict[str, Any]:
    """Kind, settings and digests of what is to be cross-fitted.

    Raises InputError where there is nothing whole, or what has no state of its own.
    """
    made_of(folder)
    record = read_json(folder / RECORD, "The recommender's record")
    if record["kind"] not in RECOMMENDERS:
        raise InputError(
            f"{folder} is a {record['kind']}, which cannot be cross-fitted.",
            remedy=f"Name one of the kinds {', '.join(RECOMMENDERS)}, and mix what comes out.",
            file=folder,
            field="of",
        )
    return {"kind": record["kind"], "settings": record["settings"], "digests": digests(folder)}


def _cross_fit(settings: CrossFitted.Settings, splits: Splits, catalog: Catalog, folder: Path) -> CrossFitted:
    part = _part(folder)
    chosen = settings_of(part["kind"], part["settings"])

    def fit(some: Splits) -> Recommender:
        return build_recommender(part["kind"], chosen, some, catalog)

    return CrossFitted.fitted(load_recommender(folder, catalog, splits.rows), fit, splits, settings.copies)


def _weights(run: str) -> dict[str, str]:
    """The digests of a run's weights. Raises InputError where it is no finished, self-contained run."""
    made_of(run)
    return {name: digest for name, digest in digests(Path(run)).items() if name.startswith("model")}


def _copy(
    run: str, provenance: Provenance, catalog: Catalog, rows: Mapping[str, Dataset], folder: Path
) -> GenerativeRecommender:
    """The policy of a run, copied into `folder`, so that what mixes it does not change when the run does."""
    load_recommender(run, catalog, rows)
    with sealing(folder, provenance.as_dict(), replaces=RECORD) as temporary:
        (temporary / COPY).mkdir()
        copy_policy(Path(run), temporary / COPY)
        write_json(temporary / RECORD, {"kind": "policy", "settings": {"run": run}, "seconds": 0.0})
    return GenerativeRecommender.from_pretrained(folder / COPY)


def _mixed_of_these(folder: Path, weights: Mapping[str, float]) -> bool:
    """Whether a mixture's copies are what lies beside it now: fitted in the same way, with the same content."""
    for name in weights:
        part = folder.parent / name
        if (
            not (part / RECORD).is_file()
            or broken(part)
            or digests(part) != digests(folder / name)
            or not digests(part)
        ):
            return False
    return True


def settings_of(kind: str, settings: Mapping[str, Any]) -> Any:
    """The `Settings` of a kind, with the defaults of those that are not given.

    Raises InputError for an unknown kind or setting, and for a value that cannot be.
    """
    kinds = RECOMMENDERS | {"mixture": Mixture, "cross_fitted": CrossFitted, "policy": GenerativeRecommender}
    problem = f"{kind!r} is not a kind of recommender."
    check_known(kind, kinds, problem, field="kind", remedy=f"Choose one of {sorted(kinds)}.")
    check_table("models", settings, get_type_hints(kinds[kind].Settings), kind)
    return kinds[kind].Settings(**settings)
