"""Guided decoding: what a recommender adds to each step of a beam."""

from dataclasses import dataclass

import torch
from torch import Tensor

from catalog import Trie, exact_log_flow
from interactions import PromptBatch
from recommenders.base import Recommender
from recommenders.batch import BatchRecommender
from recommenders.confidence import confidence


@dataclass(frozen=True)
class Guide:
    """A recommender that a beam also counts, as weight * log of its probability, at least `floor`, > 0.

    It reads histories alone, so it cannot know the target. power: >= 0; a user's weight is weight * c ** power, where c
    is how sure the recommender is of that user's next item, see `confidence`.
    """

    recommender: Recommender
    weight: float = 1.0
    floor: float = 1e-5
    power: float = 0.0

    def __call__(self, batch: PromptBatch, trie: Trie) -> Tensor:
        """What each step into a node adds to its log P_F: [B, nodes]."""
        chances = BatchRecommender(self.recommender)(batch)
        weight = (
            self.weight * confidence(chances).clamp(min=0).unsqueeze(1) ** self.power if self.power else self.weight
        )
        return guidance(chances.clamp(min=self.floor).log(), trie, weight)


def guidance(log_reward: Tensor, trie: Trie, weight: float | Tensor) -> Tensor:
    """weight * (log F(node) - log F(parent)) with the exact flows of a reward, [B, nodes].

    log_reward [B, items], finite; weight: one, or [B, 1]. A beam over log P_F + guidance ranks by P_F * R ** weight, up
    to what it passes over.
    """
    flow = exact_log_flow(log_reward, trie)  # [B, nodes]
    nodes = torch.arange(1, trie.nodes, device=flow.device)
    return torch.nn.functional.pad(weight * (flow[:, 1:] - flow[:, trie.parent(nodes)]), (1, 0))
