"""The folder that an evaluation leaves, `<folder>/evaluation/<split>`: whole or absent, and what it was made of.

`metrics.json` (`metrics` and how they were measured), `ranked.npz` and, where the policy was compared with a reward,
`calibration.json`. The run's own files are not touched.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import yaml

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import MARKER, complete, file_digest, read_json, sealed, sealing, write_json
from interactions import Splits
from interactions.provenance import Provenance
from recommenders import made_of

HELD_OUT = ("validation", "test")
METRICS, RANKED, CALIBRATION = "metrics.json", "ranked.npz", "calibration.json"


class Evaluation(NamedTuple):
    """A complete evaluation. record: metrics.json, see `write_evaluation`."""

    folder: Path
    made_of: Provenance
    record: dict[str, Any]

    @property
    def calibration(self) -> dict[str, Any] | None:
        """log (R / Z) and log P_F of some pairs, None where the policy was compared with no reward."""
        path = self.folder / CALIBRATION
        return read_json(path, "The calibration") if path.is_file() else None

    @property
    def eval_k(self) -> list[int]:
        """The cut-offs that its ranking was measured at. Raises InputError where it was measured at none."""
        kinds = [name.partition("@") for name in self.record["metrics"]]
        if found := sorted(int(k) for kind, _, k in kinds if kind == "recall" and k.isdigit()):
            return found
        raise InputError(
            f"{self.folder / METRICS} has no recall@k.", remedy="Evaluate anew.", file=self.folder / METRICS
        )

    def ranked(self, splits: Splits, items: int, least: int = 0) -> np.ndarray:
        """The items [users, length] that were ranked for the split's rows.

        Raises InputError where they do not fit the rows, or are fewer than `least` a user.
        """
        path, rows = self.folder / RANKED, getattr(splits, self.folder.name)
        try:
            with np.load(path) as file:
                ranked, target = file["ranked"], file["target"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(f"{path} cannot be read ({error}).", remedy="Evaluate anew.", file=path) from error
        fits = ranked.ndim == 2 and len(ranked) == len(rows) and np.issubdtype(ranked.dtype, np.integer)
        if not (fits and np.array_equal(target, rows["target"][:]) and -1 <= ranked.min() and ranked.max() < items):
            raise InputError(
                f"{path} ranks other users or items than those of the data.", remedy="Evaluate anew.", file=path
            )
        if ranked.shape[1] < least:
            raise InputError(
                f"{path} ranks {ranked.shape[1]} items a user, too few for recall@{least}.",
                remedy="Evaluate with a wider beam, or compare at smaller cut-offs (eval_k).",
                file=path,
                field="eval_k",
                value=least,
            )
        return ranked


def evaluation_folder(folder: str | Path, split: str) -> Path:
    """Where the evaluation of a run or recommender lies. Raises InputError for a split that is not held out."""
    if split not in HELD_OUT:
        raise InputError(
            f"split={split}: only held-out items can be ranked.",
            remedy=f"Choose one of {list(HELD_OUT)}.",
            field="split",
            value=split,
        )
    return Path(folder) / "evaluation" / split


def read_evaluation(folder: str | Path, split: str) -> Evaluation:
    """The evaluation of a run or recommender. Raises InputError where there is none or it is not whole."""
    found = evaluation_folder(folder, split)
    if not found.is_dir():
        raise InputError(
            f"{folder} is not evaluated on the {split} items.",
            remedy="Run python recipes/evaluate.py --run ... first; recommenders.py for a recommender.",
            file=folder,
        )
    of = Provenance.from_dict(sealed(found, "The evaluation"))
    return Evaluation(found, of, read_json(found / METRICS, "The evaluation's metrics"))


@contextmanager
def writing(folder: str | Path, of: Provenance) -> Iterator[Path]:
    """A new folder for `write_evaluation`, in the place of the old evaluation once it is complete.

    Raises SetupError at once where another process evaluates the same, InputError where something else lies there.
    """
    target = evaluation_folder(folder, of.settings["split"])
    with sealing(target, of.as_dict()) as temporary:
        yield temporary


def write_evaluation(
    folder: Path,
    record: Mapping[str, Any],
    ranked: np.ndarray,
    target: np.ndarray,
    calibration: Mapping[str, list[float]] | None = None,
) -> None:
    """Fill a folder of `writing`.

    record: `metrics`, name -> value, whose names say the cut-offs; `protocol`, what evaluations must share to be
    compared; `data`, the folder of prepare.py; where there is one `match` with `match_protocol`, and `guide`.
    ranked: items [users, k]; target: [users].
    """
    write_json(folder / METRICS, dict(record))
    with complete(folder / RANKED) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, ranked=ranked, target=target)
    if calibration is not None:
        write_json(folder / CALIBRATION, dict(calibration))


def data_provenance(catalog: Catalog, splits: Splits) -> Provenance:
    """What prepared data are: the catalog and the rows of every split."""
    return Provenance.from_rows(catalog.fingerprint, splits.rows)


def run_settings(run: Path) -> dict[str, Any]:
    """What resolved.yaml says of a run. Raises InputError where there is none or it cannot be read."""
    path = run / "resolved.yaml"
    if not path.is_file():
        raise InputError(f"{run} is not the folder of a run: it has no resolved.yaml.", remedy="Train first.", file=run)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", remedy="Train anew.", file=path) from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} is not a table of settings.", remedy="Train anew.", file=path)
    return settings


def check_data(run: Path, folder: str | Path, data: Provenance, catalog: Catalog | None = None) -> None:
    """Raise InputError where a run was trained on other data than those of the prepared folder.

    With the folder's catalog, data that have only grown by further items since are the same.
    """

    def as_grown(of: Provenance) -> Provenance:
        return replace(of, catalog=data.catalog) if catalog and catalog.continues(of.catalog) else of

    what, remedy = f"The data in {folder}, beside those that {run} was trained on,", f"Train it on {folder}."
    if (run / MARKER).is_file():
        known = read_json(run / MARKER, "The marker")["of"].get("provenance")
    else:
        known = None
    kept = Path(run_settings(run).get("data") or folder)
    if known:
        of = as_grown(Provenance.from_dict(known))
        # a run may train on some of the train rows, so these are told apart only where there are none of validation
        splits = {name: of.splits[name] for name in ("validation", "train") if name in of.splits}
        Provenance(of.catalog, dict([*splits.items()][:1])).check(replace(data, settings={}), what, remedy, run)
    elif kept.resolve() != Path(folder).resolve() and (kept / "catalog.json").is_file():
        own = as_grown(data_provenance(Catalog.load(kept), Splits.load(kept / "splits")))
        own.check(replace(data, settings={}), what, f"Give {kept} as data, or train it on {folder}.", run)


def check_recommender(folder: str | Path, data: Provenance) -> Provenance:
    """What a recommender is made of. Raises InputError where it is not whole or was fitted on other data."""
    of = made_of(folder)
    what, remedy = f"The recommender in {folder}", "Fit it on these data: python recipes/recommenders.py."
    replace(data, settings=of.settings).check(of, what, remedy, folder)
    return of


def has_weights(run: Path) -> bool:
    """Whether a folder holds the final weights of a run."""
    return any(run.glob("model*.safetensors"))


def weights_digest(run: Path) -> str:
    """What tells the final weights of a run from others. Raises InputError where it has none yet."""
    files = sorted(path.name for path in run.glob("model*.safetensors"))
    if not files:
        raise InputError(f"{run} holds no trained model.", remedy="Train it to its end first.", file=run)
    known = read_json(run / MARKER, "The marker").get("sha256", {}) if (run / MARKER).is_file() else {}
    digests = {name: known.get(name) or file_digest(run / name) for name in files}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]
