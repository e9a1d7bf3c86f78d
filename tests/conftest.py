"""A catalog of 48 items and a backbone of about 20,000 weights, made on the spot."""

import os
import resource

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
os.environ["GFLOWGR_CACHE"] = os.path.join(os.path.dirname(__file__), "..", ".cache", "gflowgr")

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from catalog import Catalog, node_tokens, word_tokenizer
from interactions.prompts import PromptBatch, PromptBuilder
from policy import TriePolicy, auto_class, policy_of
from trainer import METHODS, GFlowNetTrainer, RecommenderTrainer, SFTTrainer

SMALL: dict[str, dict] = {
    "gpt2": dict(n_embd=32, n_layer=2, n_head=2, n_positions=128),
    "qwen3": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
    ),
    "llama": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    ),
    "t5": dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0, decoder_start_token_id=1),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a GPU is skipped without one, here and nowhere else."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """A test draws the same numbers whatever ran before it, and in whichever process."""
    torch.manual_seed(0)


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
        config = AutoConfig.for_model(kind, **({"vocab_size": len(tokenizer)} | SMALL[kind] | overrides))
        model = auto_class(config).from_config(config)
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
def policy(
    catalog: Catalog, tokenizer: PreTrainedTokenizerFast, make_model: Callable[..., PreTrainedModel]
) -> TriePolicy:
    return policy_of(make_model(), catalog.trie, node_tokens(tokenizer, catalog.trie))


@pytest.fixture
def nearly_full_disk():
    """A context in which no file, of this process or of those it starts, can grow beyond 1 MB."""

    @contextmanager
    def limit():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(scope="session")
def train_rows() -> Dataset:
    """40 users with 2 to 9 items before the target, which follows a rule: five places after the last item."""
    rng = np.random.default_rng(3)
    histories = [rng.integers(0, 48, rng.integers(2, 10)).tolist() for _ in range(40)]
    return Dataset.from_list(
        [{"user": f"u{i}", "history": h, "target": (h[-1] + 5) % 48} for i, h in enumerate(histories)]
    )


@pytest.fixture
def make_trainer(make_model: Callable, catalog: Any, tokenizer: Any, train_rows: Dataset, tmp_path: Path) -> Callable:
    def make(
        kind: type[RecommenderTrainer] = GFlowNetTrainer,
        *,
        model: dict | None = None,
        name: str = "run",
        rewards: Any = None,  # a reward, or what a recipe says
        samplers_by_name: Any = None,
        recommender_model: Any = None,
        rows: Dataset | None = None,
        parts: dict | None = None,  # further arguments of the trainer
        **settings: Any,
    ) -> Any:
        defaults: dict[str, Any] = dict(
            output_dir=str(tmp_path / name),
            max_history=6,
            per_device_train_batch_size=4,
            max_steps=3,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            seed=7,
        )
        if isinstance(rewards, dict):
            settings["rewards"], rewards = rewards, None
        extra = {"reward_funcs": rewards, "samplers": samplers_by_name, "recommender": recommender_model}
        return kind(
            make_model(**({"kind": "qwen3"} | (model or {}))),
            dict(METHODS.values())[kind](**(defaults | settings)),
            train_dataset=train_rows if rows is None else rows,
            eval_dataset=train_rows,
            processing_class=tokenizer,
            catalog=catalog,
            **({} if kind is SFTTrainer else extra),
            **(parts or {}),
        )

    return make
