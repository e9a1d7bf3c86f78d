"""The reference rollout worker: trajectories from the policy itself, on transformers."""

from dataclasses import replace

import torch

from catalog import SOURCES, Trajectories
from interactions.prompts import PromptBatch
from policy import TriePolicy, inference
from samplers.base import generator, with_padding


class PolicySampler:
    """Independent draws from P_F with their exact log-probabilities; always the current weights, so nothing to sync.

    beams: instead of draws, the best items that a beam of width `count` finds, best first: the on-policy strategy of
    GFlowGR (arXiv 2506.16114). They are distinct and need no seed; where the catalogue has fewer, the rest is padding.
    """

    def __init__(self, policy: TriePolicy, beams: bool = False) -> None:
        self.policy, self.beams = policy, beams

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        if self.beams:
            return self._best(batch, count)
        items, log_pf = self.policy.sample(batch, count, generator(seed, batch.history.device))
        source = torch.full_like(items, SOURCES.index("policy"))
        return Trajectories(items, self.policy.trie.codes(items), source, log_pf)

    def _best(self, batch: PromptBatch, count: int) -> Trajectories:
        items, _ = self.policy.beam(batch, count)
        drawn = with_padding(items, batch, self.policy.trie, "policy")
        with inference(self.policy.model):  # a beam knows the sum over a path; losses and logs want each step
            log_pf = self.policy.log_probs(batch, drawn.items).log_pf
        return replace(drawn, log_pf=log_pf.masked_fill((items < 0).unsqueeze(-1), torch.nan))
