"""Random negatives: items that the user has not taken."""

import torch

from catalog import Trajectories, Trie
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from samplers.base import generator
from samplers.unknown import unknown_items


class RandomSampler:
    """Uniform over the items but the target and the prompt's history, and those that share their semantic IDs.

    Distinct within a prompt.
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Raises InputError where fewer than `count` items are left to draw from."""
        weight = unknown_items(self.trie, batch).float()  # [B, items]
        if (left := int(weight.sum(1).min())) < count:
            raise InputError(
                f"{count} random trajectories are asked for, but only {left} items of the catalogue are unknown to a "
                "user.",
                remedy="Ask for fewer.",
            )
        items = torch.multinomial(weight, count, generator=generator(seed, weight.device))
        return Trajectories.from_items(items, self.trie.codes(items), "random")
