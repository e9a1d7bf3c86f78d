"""What the programs in this folder train: a few steps on 48 items with about 20,000 weights, the same everywhere."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from catalog import Catalog, word_tokenizer
from policy import auto_class
from policy.loading import zero3_init_disabled
from samplers.rollouts.weights import policy_weights
from trainer import METHODS, RecommenderTrainer

CATALOG = Catalog.from_codes([f"item{i}" for i in range(48)], np.random.default_rng(0).integers(0, [4, 5, 6], (48, 3)))
TOKENIZER = word_tokenizer(CATALOG.trie.sizes)
SIZES: dict[str, dict[str, Any]] = {
    "qwen3": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
    ),
    "gpt2": dict(n_embd=32, n_layer=2, n_head=2, n_positions=128),  # with dropout
    "t5": dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0, decoder_start_token_id=1),
}


def make_rows() -> Dataset:
    rng = np.random.default_rng(3)
    histories = [rng.integers(0, 48, rng.integers(2, 10)).tolist() for _ in range(32)]
    return Dataset.from_list([{"user": str(i), "history": h, "target": i} for i, h in enumerate(histories)])


def make_model(kind: str = "qwen3", **overrides: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(TOKENIZER), **SIZES[kind] | overrides)
    with zero3_init_disabled():
        return auto_class(config).from_config(config)


def write_classifier(folder: Path) -> None:
    """A model that classifies sequences, random, with its tokenizer."""
    config = AutoConfig.for_model("qwen3", vocab_size=len(TOKENIZER), num_labels=1, **SIZES["qwen3"])
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)


def make_trainer(
    out: Path,
    kind: str = "qwen3",
    *,
    method: str = "gflownet",
    model: dict | None = None,
    parts: dict | None = None,
    **settings: Any,
) -> RecommenderTrainer:
    """settings are those of the method's config, model the backbone's, parts further arguments of the trainer."""
    defaults: dict[str, Any] = dict(
        output_dir=str(out),
        global_batch_size=8,
        max_steps=4,
        max_history=6,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        eval_strategy="no",
    )
    if method != "sft":
        defaults["samplers"] = {"target": 1}
    trainer_class, config_class = METHODS[method]
    config = config_class(**defaults | settings)
    return trainer_class(
        make_model(kind, **model or {}),
        config,
        train_dataset=make_rows(),
        eval_dataset=make_rows().select(range(31)),
        processing_class=TOKENIZER,
        catalog=CATALOG,
        **parts or {},
    )


def losses(trainer: RecommenderTrainer) -> list[float]:
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight in full, flow heads too; all processes call it."""
    return {name: weight.clone() for name, weight in policy_weights(model)}
