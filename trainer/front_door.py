"""What a trainer is given in Python, and what else can be called on it: right, or refused in one sentence."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from catalog import Catalog
from catalog.errors import InputError
from policy.loading import load_backbone
from trainer import from_trl


def make_args(trainer: type, args: Any, model: Any, unknown: Mapping[str, Any]) -> Any:
    """The config of a trainer, by default one that writes into a folder named after the model.

    unknown: further arguments of the caller. Raises InputError for these and for what is no config of the trainer.
    """
    from_trl.refuse(
        trainer.__name__, set(unknown), dict.fromkeys(unknown, "See docs/from_trl.md.") | from_trl.ARGUMENTS
    )
    config: type = trainer.config_class  # type: ignore[attr-defined]
    if args is None:
        if not isinstance(model, str | Path | PreTrainedModel) and not hasattr(model, "get_base_model"):
            _refuse("model", model, "a model of transformers, a folder or a hub name", "")
        name = Path(str(model)).name if isinstance(model, str | Path) else model.config.model_type
        return config(output_dir=f"{name}-{trainer.__name__.removesuffix('Trainer')}")
    if not isinstance(args, config):
        _refuse("args", args, f"a {config.__name__}", f"Make one: {config.__name__}(output_dir=...).")
    return args


def make_model(model: Any, tokenizer: Any, catalog: Any, seed: int) -> tuple[Any, Any]:
    """(model, tokenizer), loaded where `model` is a folder or the name of a hub; a tokenizer must then be its own."""
    if not isinstance(catalog, Catalog):
        _refuse("catalog", catalog, "a Catalog", "Load it: Catalog.load(folder).")
    if not isinstance(model, str | Path):
        return model, tokenizer
    loaded, own = load_backbone(catalog, str(model), None, seed)
    if tokenizer is not None and tokenizer.get_vocab() != own.get_vocab():
        raise InputError(
            f"processing_class has other tokens than the tokenizer of {model} with the catalog's codes.",
            remedy="Leave it out, or load the model yourself.",
            field="processing_class",
        )
    return loaded, own


def check_parts(model: Any, tokenizer: Any) -> None:
    """Raise InputError for what is no model or no tokenizer."""
    if not isinstance(model, PreTrainedModel) and not hasattr(model, "get_base_model"):
        _refuse("model", model, "a model of transformers", "")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        _refuse("processing_class", tokenizer, "a tokenizer", "Load it: AutoTokenizer.from_pretrained(folder).")


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
            remedy = (
                "Rows are counted and drawn at random, which no stream allows. Write them into a file once, which is "
                "mapped and not read into memory: Dataset.from_generator(lambda: iter(rows))."
            )
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
            remedy="Items are whole numbers, places in the catalog, and a history is a list of them.",
            field=name,
            value=column,
        )


def unavailable(name: str, remedy: str) -> Callable[..., NoReturn]:
    """A method of transformers' trainer that raises InputError."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise InputError(f"{type(self).__name__} has no {name}.", remedy=remedy, field=name)

    return refuse
