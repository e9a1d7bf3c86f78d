"""A recommender whose scores are known, and a catalog in which items share semantic IDs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from catalog import Catalog, word_tokenizer
from interactions.prompts import PromptBatch, PromptBuilder


@pytest.fixture
def recommender() -> Callable[[PromptBatch], torch.Tensor]:
    """Each prompt's own order of the items: probabilities [B, items], another permutation for another target."""

    def score(batch: PromptBatch) -> torch.Tensor:
        orders = [np.random.default_rng(100 + int(target)).permutation(48) for target in batch.target]
        return torch.tensor(np.stack(orders) + 1.0).float() / sum(range(49))

    return score


@pytest.fixture
def shared_ids() -> Catalog:
    """24 items in 12 leaves: items 2 n and 2 n + 1 have the same semantic ID."""
    pairs = np.arange(24) // 2
    return Catalog.from_codes(list(map(str, range(24))), np.stack([pairs // 4, pairs % 4], 1), on_collision="keep")


@pytest.fixture
def shared_prompts(shared_ids: Catalog) -> PromptBatch:
    """Two users whose histories name one item of a pair; the target of the first is the twin of an item it took."""
    rows = [{"user": "a", "history": [0, 4, 7], "target": 5}, {"user": "b", "history": [9], "target": 2}]
    return PromptBuilder(shared_ids, word_tokenizer(shared_ids.trie.sizes), max_history=5)(rows)
