"""What makes a checkpoint self-contained: the catalog, how prompts are made, and what the reward was.

`policy.json` (a `PolicyRecord`) and the folder `catalog`, which also counts how often each item was in training. The
catalog has a folder of its own since vLLM takes any safetensors file beside the weights for weights.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from catalog import Catalog
from catalog.errors import InputError, SetupError
from catalog.files import MARKER, read_json, write_json

RECORD, CATALOG, COUNTS, CARD = "policy.json", "catalog", "training_counts.safetensors", "README.md"
FORMAT = 1
PUBLISHED = (
    *("config.json", "generation_config.json", "model*.safetensors*", "*token*", "vocab*", "merges.txt", "*.jinja"),
    *("special_tokens_map.json", "chat_template*", "spiece.model", "added_tokens.json"),
    *(RECORD, CARD, f"{CATALOG}/*"),
)
"""Files of a run's folder that belong to the policy: patterns, as `Path.match` has them."""


@dataclass(frozen=True)
class PolicyRecord:
    """What a checkpoint says of the policy in it.

    method: sft, dpo, sdpo, grpo, gflownet. max_history, prompt_template: see `PromptBuilder`. reward: the settings that
    made the reward, {} for a method without one.
    """

    method: str
    max_history: int
    prompt_template: str | None = None
    reward: Mapping[str, Any] = field(default_factory=dict)


def write_record(folder: Path, record: PolicyRecord, catalog: Catalog, counts: Tensor) -> None:
    """Complete a checkpoint. counts [items] int64: how often each item was in training."""
    catalog.save(folder / CATALOG)
    save_file({"counts": counts.contiguous()}, folder / CATALOG / COUNTS)
    write_json(folder / RECORD, {"format": FORMAT} | asdict(record))


def read_record(folder: Path) -> tuple[PolicyRecord, Catalog, Tensor]:
    """The record of a checkpoint, its catalog, and how often each item was in training, [items] int64.

    Raises InputError where the folder is not self-contained or something in it cannot be read.
    """
    if not (folder / RECORD).is_file():
        raise InputError(
            f"{folder} has no {RECORD}: it does not say which catalog its policy is of and how prompts are made.",
            remedy="Where it is the folder of a run, complete it with the data that it was trained on: python -c "
            f"\"from experiments.complete import complete_run; complete_run('{folder}', 'DATA')\".",
            file=folder,
        )
    table = read_json(folder / RECORD, "The policy's record")
    if table.pop("format", None) != FORMAT or set(table) != {one.name for one in fields(PolicyRecord)}:
        raise InputError(
            f"{folder / RECORD} has another format than {FORMAT}: another version wrote it.",
            remedy="Load it with that version, or save it again.",
            file=folder / RECORD,
        )
    catalog = Catalog.load(folder / CATALOG)
    try:
        counts = load_file(folder / CATALOG / COUNTS)["counts"]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(
            f"{folder / CATALOG / COUNTS} cannot be read ({error}).", remedy="Save the checkpoint again.", file=folder
        ) from error
    return PolicyRecord(**table), catalog, counts


def grown_catalog(catalog: Catalog | str | Path, own: Catalog) -> Catalog:
    """The catalog, or the one in that folder, that takes the place of a checkpoint's own.

    Raises InputError where it is neither the own one nor grew from it: its codes would mean other items.
    """
    grown = catalog if isinstance(catalog, Catalog) else Catalog.load(catalog)
    if not grown.continues(own.fingerprint):
        raise InputError(
            f"The catalog {grown.fingerprint} did not grow from the model's, {own.fingerprint}: its codes mean other "
            "items.",
            remedy="Give the folder that extend.py wrote from the data of the model.",
            field="catalog",
            value=grown.fingerprint,
        )
    return grown


def holds_policy(folder: str | Path) -> bool:
    """Whether a folder is a self-contained checkpoint."""
    return (Path(folder) / RECORD).is_file()


def find_folder(name: str | Path) -> Path:
    """A local folder as it is, or that of the hub's repository `name`, fetched once. Raises InputError for neither."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{name} is no folder, and no repository of the hub that can be reached ({type(error).__name__}).",
            remedy="Give the folder of a finished run, or a name like organization/model.",
            file=Path(name),
        ) from error


def policy_files(folder: Path) -> list[Path]:
    """The files of a run's folder that belong to its policy, without checkpoints, logs and evaluations."""
    own = [path for path in sorted(folder.glob("*")) if path.is_file()] + sorted((folder / CATALOG).glob("*"))
    return [path for path in own if any(path.relative_to(folder).match(pattern) for pattern in PUBLISHED)]


def copy_policy(folder: Path, target: Path) -> None:
    """Copy the files of a policy into the empty folder `target`."""
    for path in policy_files(folder):
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def push_to_hub(folder: str | Path, name: str, *, private: bool = True, token: str | None = None) -> str:
    """Publish the policy in a folder as the hub's repository `name`, "organization/model"; returns its address.

    Only the files of the policy go there: no checkpoints, logs or evaluations. Raises InputError where the folder holds
    no self-contained policy, SetupError where the hub refuses or cannot be reached.
    """
    read_record(folder := Path(folder))
    files = [str(path.relative_to(folder)) for path in policy_files(folder)]
    try:
        api = HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files)
    except (HFValidationError, OSError) as error:  # also HfHubHTTPError and what the network raises
        raise SetupError(
            f"{name} could not be published: {error}.",
            remedy="Check the name, the token (hf auth login) and the network.",
        ) from error
    return f"{api.endpoint}/{name}"


def marked_provenance(folder: Path) -> dict[str, Any] | None:
    """What the marker of a run's folder says that it was made of, None without a marker."""
    if not (folder / MARKER).is_file():
        return None
    return read_json(folder / MARKER, "The marker")["of"].get("provenance")


def count_items(rows: Dataset | None, items: int) -> Tensor:
    """How often each item stands in rows, as history or target: [items] int64; 0 without rows."""
    counts = np.zeros(items, np.int64)
    if rows is not None:
        table = rows.select_columns(["history", "target"]).with_format("arrow")[:]
        for column in (table["history"].combine_chunks().flatten(), table["target"].combine_chunks()):
            counts += np.bincount(column.to_numpy(zero_copy_only=False), minlength=items)
    return torch.from_numpy(counts)
