from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from catalog import Catalog, Trajectories
from interactions.prompts import PromptBatch


@pytest.fixture
def shared() -> Catalog:
    """Six items of three codes; items 0 and 4 share a leaf."""
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]])
    return Catalog.from_codes([f"i{n}" for n in range(6)], codes, on_collision="keep")


@pytest.fixture
def make_batch() -> Callable[..., PromptBatch]:
    """Prompts with given targets, histories and columns; a reward of a recipe reads nothing else of them."""

    def make(targets: list[int], history: list[list[int]] | None = None, **columns: list) -> PromptBatch:
        items = [torch.tensor(row, dtype=torch.long) for row in history or [[]] * len(targets)]
        padded = pad_sequence(items, batch_first=True, padding_value=-1, padding_side="left")
        empty = torch.zeros(len(targets), 0, dtype=torch.long)
        return PromptBatch(empty, empty, padded, torch.tensor(targets), columns)

    return make


@pytest.fixture
def draw() -> Callable[[Catalog, list[list[int]]], Trajectories]:
    """Trajectories to given items [B, K]."""

    def draw(catalog: Catalog, items: list[list[int]]) -> Trajectories:
        return Trajectories.from_items(torch.tensor(items), catalog.trie.codes(torch.tensor(items)), "random")

    return draw
