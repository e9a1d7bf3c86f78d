"""What a trainer is given in Python, and what else can be called on it: right, or refused in one sentence."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from catalog import Catalog
from catalog.errors import InputError
from evaluation.ranker import rank_by_beam

if TYPE_CHECKING:
    from trainer.trajectory_trainer import TrajectoryTrainer

INSTEAD = {
    "compute_loss_func": "Write a method, see docs/methods.md.",
    "compute_metrics": "Compute them from trainer.predict(rows).",
    "data_collator": "Rows become prompts by max_history and prompt_template.",
    "formatting_func": "Rows become prompts by max_history and prompt_template.",
    "model_init": "Make the model first and give it as model.",
    "optimizer_cls_and_kwargs": "Set optim and learning_rate in the config.",
    "optimizers": "Set optim, learning_rate and lr_scheduler_type in the config.",
    "preprocess_logits_for_metrics": "Compute metrics from trainer.predict(rows).",
    "ref_model": "The reference is the model as it is given, kept by the trainer.",
    "reward_funcs": "Give one as rewards, or name several in the config's rewards.",
    "reward_weights": "Set the weights in the config's rewards.",
    "tokenizer": "Give it as processing_class.",
}
"""Arguments of transformers' and TRL's trainers that there are not, and what there is."""


def check_parts(trainer: type, model: Any, args: Any, parts: Mapping[str, Any]) -> None:
    """Raise InputError for what is no model, config, tokenizer or catalogue, and for arguments of other trainers."""
    if unknown := sorted(set(parts) & set(INSTEAD)):
        raise InputError(
            f"{trainer.__name__} has no argument {unknown[0]}.", remedy=INSTEAD[unknown[0]], field=unknown[0]
        )
    load = "Load it first: AutoModelForCausalLM.from_pretrained(folder)."
    if not isinstance(model, PreTrainedModel) and not hasattr(model, "get_base_model"):
        _refuse("model", model, "a model of transformers", load if isinstance(model, str | Path) else "")
    annotated = (base.__dict__.get("__annotations__", {}) for base in trainer.__mro__)
    config = next(names["args"] for names in annotated if "args" in names)
    if not isinstance(args, config):
        _refuse("args", args, f"a {config.__name__}", f"Make one: {config.__name__}(output_dir=...).")
    if not isinstance(tokenizer := parts.get("processing_class"), PreTrainedTokenizerBase):
        _refuse("processing_class", tokenizer, "a tokenizer", "Load it: AutoTokenizer.from_pretrained(folder).")
    if not isinstance(catalog := parts.get("catalog"), Catalog):
        _refuse("catalog", catalog, "a Catalog", "Load it: Catalog.load(folder).")


def _refuse(name: str, given: Any, wanted: str, remedy: str) -> NoReturn:
    value = given if isinstance(given, str | Path | None) else type(given).__name__
    raise InputError(f"{name} is {value!r} and must be {wanted}.", remedy=remedy, field=name, value=value)


def as_rows(name: str, rows: Any, *, targets: bool = True) -> Dataset:
    """The rows as a plain `datasets.Dataset` with item numbers in `history` and, with `targets`, in `target`.

    rows: a Dataset or a list of dictionaries. Raises InputError for all else.
    """
    if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
        if other := [number for number, row in enumerate(rows) if row.keys() != rows[0].keys()]:
            raise InputError(
                f"{name}: row {other[0]} has the columns {sorted(rows[other[0]])} and row 0 {sorted(rows[0])}.",
                remedy="Give all rows the same columns.",
                field=name,
                row=other[0],
            )
        try:
            rows = Dataset.from_list(rows)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"{name}: the rows do not fit one table ({error}).", field=name) from error
    if not isinstance(rows, Dataset):
        remedy = "Give a datasets.Dataset, or a list of rows {'history': [...], 'target': ...}."
        if isinstance(rows, Mapping):
            remedy = f"Give one part of it, as {name}=rows['train']."
        elif isinstance(rows, IterableDataset):
            remedy = "Rows are counted and drawn at random, which no stream allows: Dataset.from_list(list(rows))."
        _refuse(name, rows, "a datasets.Dataset", remedy)
    if rows.format["type"] == "custom":
        raise InputError(f"{name} has a transform, which would be lost.", remedy="Apply it by map.", field=name)
    if not len(rows):
        raise InputError(f"{name} has no rows.", remedy="Give some, or leave it out.", field=name)
    for column in ("history", "target") if targets else ("history",):
        _check_column(name, rows, column)
    return rows.with_format(None)


def _check_column(name: str, rows: Dataset, column: str) -> None:
    if column not in rows.column_names:
        raise InputError(
            f"{name} has no column {column}, only {rows.column_names}.",
            remedy="Rows come from recipes/prepare.py, or from interactions.leave_one_out.",
            field=name,
            value=column,
        )
    kind = item = rows.data.schema.field(column).type
    if column == "history":
        item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
    if item is None or not (pa.types.is_integer(item) or pa.types.is_null(item)):
        raise InputError(
            f"{name}: the column {column} holds {kind}.",
            remedy="Items are whole numbers, places in the catalogue, and a history is a list of them.",
            field=name,
            value=column,
        )


def rank(trainer: "TrajectoryTrainer", rows: Dataset) -> np.ndarray:
    """The items [rows, beam_width] that a beam finds for each row, best first, -1 behind the last; every process calls.

    Every process ranks an equal part, padded by repetition, so that sharded forwards stay in step.
    """
    world, process = trainer.accelerator.num_processes, trainer.accelerator.process_index
    part = -(-len(rows) // world)
    index = torch.arange(process * part, (process + 1) * part)
    ranked = rank_by_beam(
        trainer.policy,
        rows.select((index % len(rows)).tolist()),
        trainer.prompts,
        width=trainer.args.beam_width,
        exclude_history=trainer.args.exclude_history,
        batch_size=trainer.args.per_device_eval_batch_size,
    )
    every = trainer.accelerator.gather(torch.from_numpy(ranked).to(trainer.args.device))
    return every[: len(rows)].cpu().numpy()


def unavailable(name: str, remedy: str) -> Callable[..., NoReturn]:
    """A method of transformers' trainer that raises InputError."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise InputError(f"{type(self).__name__} has no {name}.", remedy=remedy, field=name)

    return refuse
