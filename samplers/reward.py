"""Draws from the reward itself: what the policy comes to sample at balance."""

from collections.abc import Callable

import torch
from torch import Tensor

from catalog import Trajectories, Trie
from interactions.prompts import PromptBatch
from samplers.base import generator

DrawReward = Callable[[PromptBatch, int, torch.Generator], Tensor]
"""Prompts, a count and a random stream -> items [B, count]."""


class RewardSampler:
    """Independent draws from R / Z, after floor and temperature, exactly and at any size of the catalog.

    draw_reward: draws items from the target distribution of the run.
    """

    def __init__(self, trie: Trie, draw_reward: DrawReward) -> None:
        self.trie, self.draw_reward = trie, draw_reward

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Items may repeat."""
        items = self.draw_reward(batch, count, generator(seed, batch.history.device))
        return Trajectories.from_items(items, self.trie.codes(items), "reward")
