"""What the policy should be proportional to: a reward with its floor, its temperature and a reference policy."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from catalog import Trajectories, Trie, exact_log_flow
from interactions.prompts import PromptBatch
from rewards import WeightedSum, log_reward
from samplers import TargetSampler
from trainer.micro_batch import PathFlows, Scores, gather_nodes
from trainer.scoring.reference import Reference
from trainer.scoring.row_cache import RowCache

MASS = ("reward/target_mass", "reward/floor_mass", "reward/rest_mass")


class Target:
    """log target = log max(R, floor) / temperature + reference_weight * log P_ref; the last term is relative TB's.

    at: the value of "reward_floor" or "reward_temperature" at this moment of the training. whole: whether the reward of
    the whole catalogue is computed, and the trajectories' read off; exact: whether exact flows are, for which it must.
    """

    def __init__(
        self,
        reward: WeightedSum,
        trie: Trie,
        at: Callable[[str], float],
        *,
        whole: bool,
        exact: bool,
        reference: Reference | None = None,
        reference_weight: float = 0.0,
    ) -> None:
        self.reward, self.trie, self.at, self.whole, self.exact = reward, trie, at, whole, exact
        self.reference, self.reference_weight = reference, reference_weight

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> tuple[Scores, dict[str, Tensor]]:
        """What trajectories are worth, and where all is known how each prompt's mass is spread: metric -> [B]."""
        items = trajectories.items
        if self.whole:
            everything = self.reward.catalog(batch)  # [B, items]
            log_target = self._log_target(everything, batch)
            from_items, flows = log_target.gather(1, items), None
            if self.exact or self.trie.leaves < self.trie.items:  # a leaf is worth the sum of its items
                log_flow = exact_log_flow(log_target, self.trie)
                from_items = log_flow.gather(1, self.trie.leaf_of_item[items].long())
                flows = self._on_paths(log_flow, trajectories) if self.exact else None
            return Scores(everything.gather(1, items), from_items, flows), self._mass(everything, log_target, batch)
        reward = self.reward(batch, trajectories)
        log_target_of_items = self._log_reward(reward)
        if self.reference is not None:
            log_ref = self.reference.log_probs(batch, items).sum(-1)
            log_target_of_items = log_target_of_items + self.reference_weight * log_ref
        return Scores(reward, log_target_of_items), {}

    def flows(self, batch: PromptBatch) -> Tensor:
        """The exact log F of every trie node: [B, nodes]."""
        return exact_log_flow(self.catalog(batch), self.trie)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """The log target of every item, up to a constant: [B, items]."""
        return self._log_target(self.reward.catalog(batch), batch)

    def _log_target(self, everything: Tensor, batch: PromptBatch) -> Tensor:
        log_target = self._log_reward(everything)
        if self.reference is not None:
            log_target = log_target + self.reference_weight * self.reference.distribution(batch)
        return log_target

    def _log_reward(self, reward: Tensor) -> Tensor:
        return log_reward(reward, self.at("reward_floor"), self.at("reward_temperature"))

    def _on_paths(self, log_flow: Tensor, trajectories: Trajectories) -> PathFlows:
        """log_flow [B, nodes] where the trajectories pass."""
        path = self.trie.path(trajectories.items)  # [B, K, L + 1]
        child = self.trie.children(path[..., :-1], max(self.trie.max_children))  # [B, K, L, C]
        of_children = gather_nodes(log_flow, child.clamp(min=0)).masked_fill(child < 0, -torch.inf)
        return PathFlows(gather_nodes(log_flow, path), of_children, trajectories.source >= 0)

    def _mass(self, everything: Tensor, log_target: Tensor, batch: PromptBatch) -> dict[str, Tensor]:
        """How a prompt's mass, after floor and temperature, divides among the target, the floor and the rest: [B]."""
        mass = log_target.softmax(-1)
        items = torch.arange(self.trie.items, device=mass.device)
        target = self.trie.same_leaf(items, batch.target.unsqueeze(1)) * mass  # [B, items]
        floor = (everything < self.at("reward_floor")) * (mass - target)
        of_target, of_floor = target.sum(-1), floor.sum(-1)
        return dict(zip(MASS, (of_target, of_floor, 1 - of_target - of_floor), strict=True))

    def floor_share(self, reward: Tensor, trajectories: Trajectories) -> Tensor:
        """The share of the trajectories that count whose reward [B, K] is below the floor."""
        mask = trajectories.source >= 0
        return ((reward < self.at("reward_floor")) & mask).sum() / mask.sum()


class KeptTarget:
    """`Target.score` of the training rows where the only trajectory is the target and the reward never changes.

    prompts_of: the prompts of training rows by their numbers.
    """

    def __init__(self, target: Target, prompts_of: Callable[[Sequence[int]], PromptBatch]) -> None:
        self.target, self.sampler = target, TargetSampler(target.trie)
        self.memory = RowCache(self._by_row, prompts_of)

    def score(self, batch: PromptBatch) -> tuple[Scores, dict[str, Tensor]]:
        reward, log_reward, log_flow, child_log_flow, mask, *mass = self.memory(batch, torch.stack)
        return Scores(reward, log_reward, PathFlows(log_flow, child_log_flow, mask)), dict(zip(MASS, mass, strict=True))

    def _by_row(self, batch: PromptBatch) -> list[tuple[Tensor, ...]]:
        scores, mass = self.target.score(batch, self.sampler.sample(batch, 1, 0))
        flows = scores.flows
        assert flows is not None
        parts = (scores.reward, scores.log_reward, flows.log_flow, flows.child_log_flow, flows.mask)
        return list(zip(*parts, *(mass[name] for name in MASS), strict=True))
