"""What `export.py` writes: prompt rows as text, for the trainers of TRL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import datasets
import pyarrow as pa
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from catalog import PADDING, Catalog, extend_tokenizer, word_tokenizer
from catalog.errors import InputError
from catalog.files import complete
from experiments.arguments import ExportArguments
from interactions import PromptBatch, PromptBuilder, Splits, item_texts, load_prepared, prompt_texts, training_sequences
from interactions.split import NAMES
from policy.loading import pretrained_source, reading, with_start_and_padding
from recommenders import BatchRecommender, load_recommender
from samplers import Sampler, SamplerParts
from samplers.load import build_sampler

BATCH = 256
"""Rows that become text, and are given negatives, at once."""


def export_rows(data: str | Path, output_dir: str | Path, **settings: Any) -> dict[str, int]:
    """Write prepared rows as a `datasets.DatasetDict` in TRL's format, with their tokenizer.

    Args:
        data: a prepared folder.
        output_dir: the folder to write; an export that lies there is replaced.
        settings: the others of `ExportArguments`: `kind`, `max_history`, `prompt_template`, `model` and so on.

    Returns:
        How many rows each split has, and `Texts.counts`.

    Raises:
        InputError: a setting is wrong, the folder holds something else, or the text has other tokens than training
            reads.
        SetupError: the disk is full.
    """
    args = ExportArguments(data=str(data), output_dir=str(output_dir), **settings)
    folder, (catalog, splits) = Path(args.output_dir), load_prepared(args.data)
    if folder.exists() and not (folder / "tokenizer").is_dir():
        raise InputError(
            f"{folder} exists and holds no export.", remedy="Give another folder as output_dir.", file=folder
        )
    tokenizer = load_tokenizer(catalog, args.model)
    training = training_sequences(splits)
    own = dict(zip(training["user"], training["history"], strict=True))
    with complete(folder) as temporary:
        tokenizer.save_pretrained(temporary / "tokenizer")
        written = AutoTokenizer.from_pretrained(temporary / "tokenizer", trust_remote_code=False)
        texts = Texts(args, catalog, splits, written)  # as TRL will read it
        tables = {name: texts(name, getattr(splits, name), own if name == "train" else {}) for name in NAMES}
        datasets.DatasetDict(tables).save_to_disk(temporary)
    return {name: len(table) for name, table in tables.items()} | texts.counts


def load_tokenizer(catalog: Catalog, model: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of `model` with the catalog's codes, or one of these alone; it puts no token around a text.

    Raises InputError where the model was trained for another catalog, or has no end-of-text token.
    """
    if model is None:
        return word_tokenizer(catalog.trie.sizes)
    source = pretrained_source(model)
    with reading("model", model):
        config = AutoConfig.from_pretrained(**source)
        tokenizer = with_start_and_padding(AutoTokenizer.from_pretrained(**source), model)
    catalog.check_trained(config)
    if tokenizer.eos_token is None:
        raise InputError(
            f"model={model}: its tokenizer has no eos_token, which TRL ends completions with.",
            remedy="Set one.",
            field="model",
            value=model,
        )
    extend_tokenizer(tokenizer, catalog.trie.sizes)
    tokenizer.add_bos_token = tokenizer.add_eos_token = False  # the start token is part of the text
    return tokenizer


class Texts:
    """Rows with their prompt, target and, where `args` ask for pairs, rejected items as text.

    counts: `without_negative`, rows that the sampler had no item for, so that they are left out; `merged_prompts`,
    prompts in which the tokenizer merges titles with the text around them, which the trainers here keep apart.
    """

    def __init__(
        self, args: ExportArguments, catalog: Catalog, splits: Splits, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.args, self.trie, self.tokenizer = args, catalog.trie, tokenizer
        self.prompts = PromptBuilder(catalog, tokenizer, args.max_history, args.prompt_template)
        self.sampler = load_sampler(args, catalog, splits) if args.kind == "preference" else None
        self.counts = ({"without_negative": 0} if self.sampler else {}) | (
            {"merged_prompts": 0} if self.prompts.titles else {}
        )

    def __call__(self, name: str, rows: datasets.Dataset, user_items: Mapping[str, list[int]]) -> datasets.Dataset:
        """The rows of the split `name`; user_items: users' whole training sequences, for what a recommender counts."""
        kept: list[int] = []
        columns: dict[str, list[str]] = {}
        for start in range(0, len(rows), BATCH):
            table = rows.select(range(start, min(start + BATCH, len(rows)))).to_list()
            batch = self.prompts(
                [row | ({"user_items": user_items[row["user"]]} if user_items else {}) for row in table]
            )
            places, texts = self._texts(batch, seed=self.args.seed * 31 + crc32(f"{name} {start}".encode()))
            kept += [start + place for place in places]
            for column, values in texts.items():
                columns.setdefault(column, []).extend(values)
        table = rows.with_format("arrow")[:].take(pa.array(kept, pa.int64()))
        for column, values in columns.items():
            table = table.append_column(column, pa.array(values, pa.string()))
        return datasets.Dataset(table)

    def _texts(self, batch: PromptBatch, seed: int) -> tuple[list[int], dict[str, list[str]]]:
        """The place in the batch of each row to write, and its new columns."""
        prompts, targets = prompt_texts(batch, self.tokenizer), item_texts(batch.target, self.trie)
        self._check(batch, prompts, targets)
        if self.sampler is None:
            return [*range(len(batch))], {"prompt": prompts, "completion": targets, "target_text": targets}
        drawn = self.sampler.sample(batch, self.args.negatives, seed)
        mask = drawn.source != PADDING  # [B, negatives]
        self.counts["without_negative"] += int((~mask.any(1)).sum())
        places = mask.nonzero()[:, 0].tolist()
        chosen = [targets[place] for place in places]
        return places, {
            "prompt": [prompts[place] for place in places],
            "chosen": chosen,
            "rejected": item_texts(drawn.items[mask], self.trie),
            "target_text": chosen,
        }

    def _check(self, batch: PromptBatch, prompts: list[str], targets: list[str]) -> None:
        """Raise InputError where text becomes other tokens than the prompt's and the codes', behind one another."""
        read = [row[mask].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask.bool(), strict=True)]
        codes = self.prompts.tokens[self.trie.path(batch.target)[:, 1:]].tolist()  # B of L
        alone, together, behind = (
            self.tokenizer(texts)["input_ids"]
            for texts in (prompts, [a + b for a, b in zip(prompts, targets, strict=True)], targets)
        )
        for place, user in enumerate(batch.users):
            merged = alone[place] != read[place]
            if merged and "merged_prompts" in self.counts:
                self.counts["merged_prompts"] += 1
                merged = False
            if merged or behind[place] != codes[place] or together[place] != alone[place] + codes[place]:
                raise InputError(
                    f"The tokenizer of model={self.args.model} turns the prompt {prompts[place]!r} of user {user!r} "
                    f"and the codes {targets[place]!r} into other tokens than training reads.",
                    remedy="Take another model.",
                )


def load_sampler(args: ExportArguments, catalog: Catalog, splits: Splits) -> Sampler:
    """What rejected items are drawn by. Raises InputError where it asks for a recommender and none is named."""
    recommender = (
        BatchRecommender(load_recommender(args.recommender, catalog, splits.rows)) if args.recommender else None
    )
    parts = SamplerParts(
        catalog.trie,
        policy=None,  # type: ignore[arg-type]  # there is none, and none of the samplers to choose from asks for it
        recommender=recommender,
        progress=lambda: 1.0,
        catalog_fingerprint=catalog.fingerprint,
    )
    return build_sampler(args.sampler, {}, parts)
