"""The reference rollout worker: trajectories from the policy itself, on transformers."""

from dataclasses import replace

import torch

from catalog import SOURCES, Trajectories
from interactions.prompts import PromptBatch
from policy import ON_POLICY, Exploration, TriePolicy, inference
from samplers.base import check_beams, generator, with_padding


class PolicySampler:
    """Independent draws from P_F with their exact log-probabilities; always the current weights, so nothing to sync.

    exploration: how the draws depart from P_F; their log-probabilities stay those of P_F.

    beams: instead of draws, the best items that a beam of width `count` finds, best first: the on-policy strategy of
    GFlowGR (arXiv 2506.16114). They are distinct and need no seed; where the catalog has fewer, the rest is padding.
    """

    def __init__(self, policy: TriePolicy, beams: bool = False, exploration: Exploration = ON_POLICY) -> None:
        check_beams(beams, exploration)
        self.policy, self.beams, self.exploration = policy, beams, exploration

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        if self.beams:
            return self._best(batch, count)
        stream = generator(seed, batch.history.device)
        items, log_pf = self.policy.sample(batch, count, stream, self.exploration)
        source = torch.full_like(items, SOURCES.index("policy"))
        return Trajectories(items, self.policy.trie.codes(items), source, log_pf)

    def _best(self, batch: PromptBatch, count: int) -> Trajectories:
        items, _ = self.policy.beam(batch, count)
        drawn = with_padding(items, batch, self.policy.trie, "policy")
        with inference(self.policy.model):  # a beam knows the sum over a path; losses and logs want each step
            log_pf = self.policy.log_probs(batch, drawn.items).log_pf
        return replace(drawn, log_pf=log_pf.masked_fill((items < 0).unsqueeze(-1), torch.nan))
