"""What the entry points build from a prepared folder and a checkpoint."""

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from catalog import QUANTISERS, Catalog, colliding, extend_tokenizer, read_index, word_tokenizer
from catalog.errors import GFlowGRError, InputError
from interactions import (
    Splits,
    check_free,
    fetch_movielens_100k,
    in_order,
    k_core,
    leave_one_out,
    load_prepared,
    read_items,
    read_log,
    read_titles,
    save_prepared,
    unrankable,
)
from policy import auto_class
from recipes.arguments import DataArguments
from recipes.backbone import backbone_config
from recipes.cli import as_table
from recipes.item_vectors import index_affinity, item_vectors
from trainer.export import check_finished
from trainer.launch import in_full

logger = logging.getLogger(__name__)


def prepare(args: DataArguments) -> dict[str, Any]:
    """Log -> catalogue and splits in args.output_dir, whole or not at all; returns what was counted."""
    check_free(Path(args.output_dir))  # before the work, too
    log, titles = _read(args)
    changed = dict(log.attrs)
    log = in_order(k_core(log, args.min_interactions))
    if args.users is not None:
        if args.users < 1:
            raise InputError(
                f"users={args.users} keeps nobody.", remedy="Set it to 1 or more.", field="users", value=args.users
            )
        log = log[log["user"].isin(log["user"].unique()[: args.users])]
    made: dict[str, Any] = {}
    item_ids: Sequence[str]
    if args.index:
        item_ids, codes = read_index(args.index)
        splits = _split(log, item_ids, args)
        made["affinity"] = {args.index: index_affinity(codes, splits)}
    else:
        # sorted and then shuffled: the order of a log tells who bought what next
        item_ids = np.random.default_rng(args.seed).permutation(sorted(log["item"].unique())).tolist()
        splits = _split(log, item_ids, args)
        vectors, made["affinity"] = item_vectors(_listed(args.vectors), item_ids, titles, splits, args.seed)
        codes, made["residual"] = QUANTISERS[args.quantiser](vectors, tuple(args.codebook_sizes), seed=args.seed)
    made |= {"distinct_codes": len(np.unique(codes, axis=0)), "items_that_collided": colliding(codes)}
    known = _known_titles(item_ids, titles)
    catalog = Catalog.from_codes(item_ids, codes, on_collision=args.on_collision, titles=known)
    counts = {
        "users": len(splits.test),
        "items": len(catalog),
        "interactions": len(log),
        "training_rows": len(splits.train),
        "levels": catalog.trie.levels,
        "semantic_ids": catalog.trie.leaves,
        "leaf_is_item": catalog.leaf_is_item,
        "titles_matched": sum(map(bool, known)),
        "unrankable": {name: int(unrankable(getattr(splits, name)).sum()) for name in ("validation", "test")},
    }
    counts |= changed | made
    settings = {name: value for name, value in asdict(args).items() if name not in ("output_dir", "cache")}
    save_prepared(args.output_dir, catalog, splits, counts, settings)
    return counts


def _read(args: DataArguments) -> tuple[Any, dict[str, str]]:
    columns = as_table("columns", args.columns) or None
    if args.log != "movielens-100k":
        return read_log(args.log, columns), read_items(args.items) if args.items else {}
    folder = fetch_movielens_100k(args.cache)
    return read_log(folder / "ml-100k.inter"), read_titles(folder / "ml-100k.item")


def _split(log: Any, item_ids: Sequence[str], args: DataArguments) -> Splits:
    splits = leave_one_out(log, item_ids, args.max_history)
    if not len(splits.train):
        raise InputError(
            f"{args.log} leaves no training row: no user has more than 3 interactions, and the last two are held out.",
            remedy="Give a longer log, or keep more users.",
            file=args.log,
        )
    return splits


def _known_titles(item_ids: Sequence[str], titles: dict[str, str]) -> list[str]:
    """The title of each item, "" for none; [] where no item has one, of which is warned if titles were given."""
    known = [titles.get(item, "") for item in item_ids]
    if any(known):
        return known
    if titles:
        logger.warning(
            "No item has a title: the table has titles of %d items, the first of them %r, and the log has items like "
            "%r. Check that ids are the same and that the column is called title.",
            *(sum(map(bool, titles.values())), next(iter(titles)), item_ids[0]),
        )
    return []


def _listed(value: list[str] | str | None) -> list[str]:
    return [value] if isinstance(value, str) else value or ["cooccurrence"]


load_data = load_prepared


def load_backbone(
    catalog: Catalog, model: str | None, backbone: dict[str, Any] | str | None, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint, its vocabulary extended by the catalogue's codes where they are missing; or a new backbone.

    model: a folder, a hub name, or a .gguf file in either. Every process must give the same seed, see `_extend`.
    """
    if model is not None:
        check_finished(model)
        source = pretrained_source(model)
        # packed weights, which transformers keeps where it has a kernel for them, can be neither trained nor saved
        unpacked = GgufConfig(dequantize=True) if "gguf_file" in source else None
        with reading("model", model):
            tokenizer = with_start_and_padding(AutoTokenizer.from_pretrained(**source), model)
            kind = auto_class(AutoConfig.from_pretrained(**source))
            loaded = kind.from_pretrained(**source, dtype=torch.float32, quantization_config=unpacked)
        catalog.check_trained(loaded.config)
        if added := extend_tokenizer(tokenizer, catalog.trie.sizes):
            logger.info("%d code tokens added to the vocabulary of %s", added, model)
            _extend(loaded, len(tokenizer), added, seed)
        return loaded, tokenizer
    if not backbone:
        raise InputError(
            "Neither model nor backbone is given.",
            remedy="Name a checkpoint, or describe a new backbone.",
            field="model",
        )
    tokenizer = word_tokenizer(catalog.trie.sizes)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,  # of an encoder-decoder
    }
    config = backbone_config(backbone, vocab_size=len(tokenizer), **special)
    torch.manual_seed(seed)
    with in_full(), reading("backbone", config.model_type):
        return auto_class(config).from_config(config, trust_remote_code=False), tokenizer


@contextmanager
def reading(field: str, name: str) -> Iterator[None]:
    """What transformers says of a checkpoint or backbone that it cannot make becomes an InputError of that setting."""
    try:
        yield
    except GFlowGRError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{field}={name} cannot be loaded: {' '.join(str(error).split()).rstrip('.')}.",
            remedy="Name a folder or a hub name that transformers loads without code of its own.",
            field=field,
            value=name,
        ) from error


def pretrained_source(model: str) -> dict[str, Any]:
    """What `from_pretrained` must be told to read `model`. Raises InputError where GGUF cannot be read."""
    if not model.endswith(".gguf"):
        return {"pretrained_model_name_or_path": model, "trust_remote_code": False}
    if not importlib.util.find_spec("gguf"):
        raise InputError(
            f"model={model}: the package that reads GGUF is missing.",
            remedy="Run pip install 'gflowgr[gguf]'.",
            field="model",
            value=model,
        )
    path = Path(model)
    return {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
        "trust_remote_code": False,
    }


def with_start_and_padding(tokenizer: PreTrainedTokenizerBase, model: str) -> PreTrainedTokenizerBase:
    """Let the end-of-text token serve where a pretrained tokenizer has none to start or to pad with."""
    for name in ("bos_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            logger.info("%s has no %s: its eos_token %s serves as one", model, name, tokenizer.eos_token)
            setattr(tokenizer, name, tokenizer.eos_token)
    return tokenizer


def _extend(model: PreTrainedModel, tokens: int, added: int, seed: int) -> None:
    """Resize the embeddings, input and output, to `tokens`; the last `added` rows begin at the mean of the others.

    Many checkpoints have more rows than their tokenizer has tokens. These spare rows were never trained, so they go
    first: neither does a code begin there, nor do they pull the mean.
    """
    torch.manual_seed(seed)  # transformers draws the new rows, very close to the mean; processes must draw the same
    model.resize_token_embeddings(tokens - added)
    model.resize_token_embeddings(tokens)
