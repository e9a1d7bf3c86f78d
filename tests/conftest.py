"""A catalogue of 48 items and a backbone of about 20,000 weights, made on the spot."""

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from catalog import Catalog, node_tokens, word_tokenizer
from interactions.prompts import PromptBatch, PromptBuilder
from policy import CausalPolicy

SMALL: dict[str, dict] = {
    "gpt2": dict(n_embd=32, n_layer=2, n_head=2, n_positions=128),
    "qwen3": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=8, max_position_embeddings=128),
    "llama": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=128),
}


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """48 items of 3 codes with 4 to 6 codes a level; some share all three and get a fourth."""
    codes = np.random.default_rng(0).integers(0, [4, 5, 6], (48, 3))
    return Catalog.from_codes([f"item{i}" for i in range(48)], codes)


@pytest.fixture(scope="session")
def tokenizer(catalog: Catalog) -> PreTrainedTokenizerFast:
    return word_tokenizer(catalog.trie.sizes)


@pytest.fixture
def make_model(tokenizer: PreTrainedTokenizerFast) -> Callable[..., PreTrainedModel]:
    def make(kind: str = "qwen3", **overrides: object) -> PreTrainedModel:
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **(SMALL[kind] | overrides))
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # the usual 0.02 gives a nearly uniform policy, which hides errors
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return make


@pytest.fixture
def rows() -> list[dict]:
    """Four users with histories of 1, 3, 7 and 5 items."""
    generator = np.random.default_rng(1)
    return [
        {"user": f"u{n}", "history": generator.choice(48, n, replace=False).tolist(), "target": int(n)}
        for n in (1, 3, 7, 5)
    ]


@pytest.fixture
def prompts(catalog: Catalog, tokenizer: PreTrainedTokenizerFast, rows: list[dict]) -> PromptBatch:
    return PromptBuilder(catalog, tokenizer, max_history=5)(rows)


@pytest.fixture
def policy(catalog: Catalog, tokenizer: PreTrainedTokenizerFast, make_model: Callable[..., PreTrainedModel]) -> CausalPolicy:
    return CausalPolicy(make_model(), catalog.trie, node_tokens(tokenizer, catalog.trie))
