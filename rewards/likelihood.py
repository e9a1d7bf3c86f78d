"""The policy's own probability of a trajectory."""

import torch
from torch import Tensor

from catalog import SparseReward, Trajectories
from interactions.prompts import PromptBatch
from policy import TriePolicy


class Likelihood:
    """r_y of GFlowGR (arXiv 2506.16114), from the model itself: its probability of the item, without gradients.

    r_y[b, k] = P_F(item[b, k] | prompt b) / max_i P_F(i | prompt b)

    The largest probability is that of the whole catalog, exactly, so the policy's favorite has 1 and nothing has
    more. The weights are the current ones, so the reward changes as the policy learns.

    reward_items: above 0 the semantic IDs that a beam of this width finds have their values, and all others 0.
    """

    def __init__(self, policy: TriePolicy, reward_items: int = 0) -> None:
        self.policy, self.reward_items = policy, reward_items

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        if self.reward_items:
            return self.sparse(batch).at(trajectories.items, self.policy.trie)
        return self.catalog(batch).gather(1, trajectories.items)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]"""
        if self.reward_items:
            return self.sparse(batch).dense(self.policy.trie)
        log_p = self.policy.distribution(batch)
        return (log_p - log_p.amax(1, keepdim=True)).exp()

    def sparse(self, batch: PromptBatch) -> SparseReward:
        """The leaves that a beam finds."""
        trie = self.policy.trie
        items, log_p = self.policy.beam(batch, min(self.reward_items, trie.leaves))  # [B, M], best first
        leaf = trie.leaf_of_item[items].long().where(items >= 0, -1)
        cut = (1 - log_p.exp().sum(1)).clamp(min=0)
        return SparseReward.from_nodes(leaf, (log_p - log_p[:, :1]).exp(), torch.zeros_like(cut), cut)
