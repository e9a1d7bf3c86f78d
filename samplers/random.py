"""Random negatives: items that the user has not taken."""

import torch

from catalog import Trajectories, Trie
from interactions.prompts import PromptBatch
from samplers.base import generator


class RandomSampler:
    """Uniform over the items but the target and the prompt's history, and those that share their semantic IDs.

    Distinct within a prompt.
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self.leaf = trie.leaf_of_item.long() - trie.level_start[-2]  # [items], counted from 0

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Raises ValueError where fewer than `count` items are left to draw from."""
        known = torch.cat([batch.history, batch.target.unsqueeze(1)], 1)  # [B, N + 1]
        taken = self.leaf[known].where(known >= 0, self.trie.leaves)  # [B, N + 1]; the last column is the padding's
        free = torch.ones(len(batch), self.trie.leaves + 1, device=known.device).scatter_(1, taken, 0.0)
        weight = free[:, self.leaf]  # [B, items]
        if (left := int(weight.sum(1).min())) < count:
            raise ValueError(
                f"{count} random trajectories are asked for, but only {left} items of the catalogue are unknown to a "
                "user. Ask for fewer."
            )
        items = torch.multinomial(weight, count, generator=generator(seed, known.device))
        return Trajectories.of_items(items, self.trie.codes(items), "random")
