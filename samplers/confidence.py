"""Likely items that the policy overlooks."""

from collections.abc import Callable

import torch
from torch import Tensor

from catalog import Trajectories, Trie
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from policy import TriePolicy, inference
from samplers.unknown import best_unknown


class ConfidenceSampler:
    """The least likely under the policy of a recommender's `pool` best unknown items (GFlowGR, arXiv 2506.16114).

    The paper's variant "low generation confidence from a pool that the recommender filters". Nothing is drawn
    at random, so the seed changes nothing; the policy, with its current weights, reads the pool in one forward.

    recommender: prompts -> probabilities [B, items].
    """

    def __init__(
        self, trie: Trie, recommender: Callable[[PromptBatch], Tensor], policy: TriePolicy, pool: int = 16
    ) -> None:
        if pool < 1:
            raise InputError(
                f"confidence: pool={pool} leaves no candidates.", remedy="Set it to 1 or more.", field="confidence"
            )
        self.trie, self.recommender, self.policy, self.pool = trie, recommender, policy, pool

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """The least likely first. Raises InputError where a prompt has fewer than `count` candidates."""
        items = best_unknown(self.trie, batch, self.recommender, self.pool)  # [B, pool]
        if (candidates := int((items >= 0).sum(1).min())) < count:
            raise InputError(
                f"confidence: {count} trajectories are asked for of {candidates} candidates.",
                remedy="Raise pool or ask for fewer; only items that are unknown to the user are candidates.",
                field="confidence",
            )
        with inference(self.policy.model):
            log_pf = self.policy.log_probs(batch, items.clamp(min=0)).log_pf.sum(-1)  # [B, pool]
        least = log_pf.masked_fill(items < 0, torch.inf).topk(count, largest=False).indices
        chosen = items.gather(1, least)
        return Trajectories.from_items(chosen, self.trie.codes(chosen), "confidence")
