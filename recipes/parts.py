"""What the entry points build from a prepared folder and a checkpoint."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from catalog import Catalog, extend_tokenizer, residual_kmeans, word_tokenizer
from catalog.files import write_json
from collaborative import cooccurrence_vectors
from interactions import (
    Splits,
    fetch_movielens_100k,
    in_order,
    k_core,
    leave_one_out,
    read_log,
    read_titles,
)
from recipes.cli import DataArguments, as_table

logger = logging.getLogger(__name__)


def prepare(args: DataArguments) -> dict[str, Any]:
    """Log -> catalogue and splits in args.output_dir; returns what was counted."""
    folder = Path(args.output_dir)
    log, titles = _read(args)
    log = in_order(k_core(log, args.min_interactions))
    if args.index:
        catalog = Catalog.from_index(args.index, args.on_collision)
        splits = leave_one_out(log, catalog.item_ids, args.max_history)
    else:
        # sorted and then shuffled: the order of a log tells who bought what next
        item_ids = np.random.default_rng(args.seed).permutation(sorted(log["item"].unique())).tolist()
        splits = leave_one_out(log, item_ids, args.max_history)
        codes = residual_kmeans(_vectors(args, item_ids, splits), tuple(args.codebook_sizes), seed=args.seed)
        catalog = Catalog.from_codes(item_ids, codes, on_collision=args.on_collision)
    catalog = Catalog(catalog.trie, catalog.item_ids, tuple(titles.get(item, item) for item in catalog.item_ids))
    catalog.save(folder)
    splits.save(folder / "splits")
    counts = {
        "users": len(splits.test),
        "items": len(catalog),
        "interactions": len(log),
        "training_rows": len(splits.train),
        "levels": catalog.trie.levels,
        "semantic_ids": catalog.trie.leaves,
        "leaf_is_item": catalog.leaf_is_item,
    }
    write_json(folder / "metrics.json", counts)
    return counts


def _read(args: DataArguments) -> tuple[Any, dict[str, str]]:
    columns = as_table("columns", args.columns) or None
    if args.log != "movielens-100k":
        return read_log(args.log, columns), {}
    folder = fetch_movielens_100k(args.cache)
    return read_log(folder / "ml-100k.inter"), read_titles(folder / "ml-100k.item")


def _vectors(args: DataArguments, item_ids: list[str], splits: Splits) -> np.ndarray:
    if args.vectors is None:
        training = splits.validation["history"]  # what precedes the validation item
        return cooccurrence_vectors(training, len(item_ids), dimensions=min(64, len(item_ids) - 1))
    vectors = np.load(args.vectors, allow_pickle=False)
    if len(vectors) != len(item_ids):
        raise ValueError(
            f"{args.vectors} has {len(vectors)} rows for the {len(item_ids)} items that are left of the log. "
            "Give one row per item, in the order of the sorted item ids."
        )
    return vectors[np.argsort(np.argsort(item_ids))]


def load_data(folder: str) -> tuple[Catalog, Splits]:
    """The catalogue and splits that prepare.py wrote."""
    if not (Path(folder) / "catalog.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no prepared data. Run python recipes/prepare.py --config ... --output_dir {folder} first."
        )
    return Catalog.load(folder), Splits.load(Path(folder) / "splits")


def load_backbone(
    catalog: Catalog, model: str | None, backbone: dict[str, Any] | str | None, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint, its vocabulary extended by the catalogue's codes where they are missing; or a new backbone."""
    if model is not None:
        catalog.check_trained(AutoConfig.from_pretrained(model))
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        added = extend_tokenizer(tokenizer, catalog.trie.sizes)
        if added:
            logger.info("%d code tokens added to the vocabulary of %s", added, model)
            loaded.resize_token_embeddings(len(tokenizer))
        return loaded, tokenizer
    if not backbone:
        raise ValueError("Neither model nor backbone is given. Name a checkpoint, or describe a new backbone.")
    described = dict(as_table("backbone", backbone))
    tokenizer = word_tokenizer(catalog.trie.sizes)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(described.pop("model_type"), vocab_size=len(tokenizer), **special, **described)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config), tokenizer
