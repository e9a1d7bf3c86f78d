"""The reference rollout worker: trajectories from the policy itself, on transformers."""

import torch

from catalog import SOURCES, Trajectories
from interactions.prompts import PromptBatch
from policy import CausalPolicy
from samplers.base import generator


class PolicySampler:
    """Independent draws from P_F with their exact log-probabilities; always the current weights, so nothing to sync."""

    def __init__(self, policy: CausalPolicy) -> None:
        self.policy = policy

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        items, log_pf = self.policy.sample(batch, count, generator(seed, batch.target.device))
        source = torch.full_like(items, SOURCES.index("policy"))
        return Trajectories(items, self.policy.trie.codes(items), source, log_pf)
