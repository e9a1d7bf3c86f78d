"""Random negatives: items that the user has not taken."""

import torch

from catalog import Trajectories, Trie
from interactions.prompts import PromptBatch
from samplers.base import generator


class RandomSampler:
    """Uniform over the catalogue without the target and the prompt's history; distinct within a prompt."""

    def __init__(self, trie: Trie) -> None:
        self.trie = trie

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Raises ValueError where fewer than `count` items are left to draw from."""
        known = torch.cat([batch.history, batch.target.unsqueeze(1)], 1)  # [B, N + 1]
        weight = torch.ones(len(batch), self.trie.items + 1, device=known.device)  # one column more for the padding
        weight.scatter_(1, known.where(known >= 0, self.trie.items), 0.0)
        weight[:, -1] = 0.0
        if (left := int(weight.sum(1).min())) < count:
            raise ValueError(
                f"{count} random trajectories are asked for, but only {left} items of the catalogue are unknown to a "
                "user. Ask for fewer."
            )
        items = torch.multinomial(weight, count, generator=generator(seed, known.device))
        return Trajectories.of_items(items, self.trie.codes(items), "random")
