"""Guided decoding: what a recommender adds to each step of a beam."""

from dataclasses import dataclass

import torch
from torch import Tensor

from catalog import Trie, exact_log_flow
from interactions import PromptBatch
from recommenders.base import Recommender
from recommenders.batch import BatchRecommender


@dataclass(frozen=True)
class Guide:
    """A recommender that a beam also counts, as weight * log of its probability, at least `floor`, > 0.

    It reads histories alone, so it cannot know the target.
    """

    recommender: Recommender
    weight: float = 1.0
    floor: float = 1e-5

    def __call__(self, batch: PromptBatch, trie: Trie) -> Tensor:
        """What each step into a node adds to its log P_F: [B, nodes]."""
        chances = BatchRecommender(self.recommender)(batch)
        return guidance(chances.clamp(min=self.floor).log(), trie, self.weight)


def guidance(log_reward: Tensor, trie: Trie, weight: float) -> Tensor:
    """weight * (log F(node) - log F(parent)) with the exact flows of a reward, [B, nodes].

    log_reward [B, items], finite. A beam over log P_F + guidance ranks by P_F * R ** weight, up to what it passes over.
    """
    flow = exact_log_flow(log_reward, trie)  # [B, nodes]
    nodes = torch.arange(1, trie.nodes, device=flow.device)
    return torch.nn.functional.pad(weight * (flow[:, 1:] - flow[:, trie.parent(nodes)]), (1, 0))
