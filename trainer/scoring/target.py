"""What the policy should be proportional to: a reward with its floor, its temperature and a reference policy."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from catalog import DenseFlows, Flows, SparseFlows, Trajectories, Trie, draw_items
from interactions.prompts import PromptBatch
from rewards import WeightedSum, log_reward
from samplers import TargetSampler
from trainer.micro_batch import PathFlows, Scores
from trainer.scoring.reference import Reference
from trainer.scoring.row_cache import RowCache

logger = logging.getLogger(__name__)

MASS = ("reward/target_mass", "reward/floor_mass", "reward/rest_mass")

CUT_MASS = "reward/cut_mass"

CUT = 0.1
"""The share of a reward's mass beyond reward_items from which on a warning says so."""


class Target:
    """log target = log max(R, floor) / temperature + reference_weight * log P_ref; the last term is relative TB's.

    at: the value of "reward_floor" or "reward_temperature" at this moment of the training. whole: how the reward of the
    whole catalog is computed and the trajectories' read off: "dense", item by item, or "sparse", of the items that it
    names; None where it is not. exact: whether exact flows are, for which it must. A sparse target has no reference.
    """

    def __init__(
        self,
        reward: WeightedSum,
        trie: Trie,
        at: Callable[[str], float],
        *,
        whole: Literal["dense", "sparse"] | None,
        exact: bool,
        reference: Reference | None = None,
        reference_weight: float = 0.0,
    ) -> None:
        self.reward, self.trie, self.at, self.whole, self.exact = reward, trie, at, whole, exact
        self.reference, self.reference_weight = reference, reference_weight
        self._warned = False

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> tuple[Scores, dict[str, Tensor]]:
        """What trajectories are worth, and where all is known how each prompt's mass is spread: metric -> [B]."""
        if self.whole == "dense":
            return self._score_dense(batch, trajectories)
        if self.whole == "sparse":
            return self._score_sparse(batch, trajectories)
        reward = self.reward(batch, trajectories)
        log_target_of_items = self._log_reward(reward)
        if self.reference is not None:
            log_ref = self.reference.log_probs(batch, trajectories.items).sum(-1)
            log_target_of_items = log_target_of_items + self.reference_weight * log_ref
        return Scores(reward, log_target_of_items), {}

    def _score_dense(self, batch: PromptBatch, trajectories: Trajectories) -> tuple[Scores, dict[str, Tensor]]:
        items = trajectories.items
        everything = self.reward.catalog(batch)  # [B, items]
        log_target = self._log_target(everything, batch)
        from_items, on_paths = log_target.gather(1, items), None
        if self.exact or not self.trie.leaf_is_item:  # a leaf is worth the sum of its items
            flows = DenseFlows(log_target, self.trie)
            from_items = flows.at(self.trie.leaf_of_item[items].long())
            on_paths = self._on_paths(flows, trajectories) if self.exact else None
        return Scores(everything.gather(1, items), from_items, on_paths), self._mass(everything, log_target, batch)

    def _score_sparse(self, batch: PromptBatch, trajectories: Trajectories) -> tuple[Scores, dict[str, Tensor]]:
        flows, cut = self._sparse_flows(batch)
        items = trajectories.items
        reward = flows.values.value[flows.values.of_items(items)]
        on_paths = self._on_paths(flows, trajectories) if self.exact else None
        from_items = flows.at(self.trie.leaf_of_item[items].long()) if on_paths is None else on_paths.log_flow[..., -1]
        return Scores(reward, from_items, on_paths), self._sparse_mass(flows, batch) | {CUT_MASS: cut}

    def flows(self, batch: PromptBatch) -> Flows:
        """The exact flows of prompts."""
        if self.whole == "sparse":
            return self._sparse_flows(batch)[0]
        return DenseFlows(self.catalog(batch), self.trie)

    def draw(self, batch: PromptBatch, count: int, generator: torch.Generator) -> Tensor:
        """`count` independent draws from R / Z for each prompt: items [B, count]."""
        return draw_items(self.flows(batch), len(batch), count, generator)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """The log target of every item, up to a constant: [B, items]."""
        return self._log_target(self.reward.catalog(batch), batch)

    def _sparse_flows(self, batch: PromptBatch) -> tuple[SparseFlows, Tensor]:
        """The flows, and the share of the reward's mass that is cut [B]."""
        values, cut = self.reward.sparse(batch, self.trie)
        if not self._warned and (share := cut.mean().item()) > CUT:
            self._warned = True
            logger.warning(
                "The items that the reward names hold %.0f %% of its mass for the prompts of a batch: the other "
                "%.0f %% count as nothing. Raise reward_items to name more of them.",
                100 * (1 - share),
                100 * share,
            )
        return SparseFlows(values, self._log_reward(values.value)), cut

    def _log_target(self, everything: Tensor, batch: PromptBatch) -> Tensor:
        log_target = self._log_reward(everything)
        if self.reference is not None:
            log_target = log_target + self.reference_weight * self.reference.distribution(batch)
        return log_target

    def _log_reward(self, reward: Tensor) -> Tensor:
        return log_reward(reward, self.at("reward_floor"), self.at("reward_temperature"))

    def _on_paths(self, flows: Flows, trajectories: Trajectories) -> PathFlows:
        """The flows where the trajectories pass."""
        return PathFlows(*flows.on_path(self.trie.path(trajectories.items)), trajectories.source >= 0)

    def _mass(self, everything: Tensor, log_target: Tensor, batch: PromptBatch) -> dict[str, Tensor]:
        """How a prompt's mass, after floor and temperature, divides among the target, the floor and the rest: [B]."""
        mass = log_target.softmax(-1)
        items = torch.arange(self.trie.items, device=mass.device)
        target = self.trie.same_leaf(items, batch.target.unsqueeze(1)) * mass  # [B, items]
        floor = (everything < self.at("reward_floor")) * (mass - target)
        of_target, of_floor = target.sum(-1), floor.sum(-1)
        return dict(zip(MASS, (of_target, of_floor, 1 - of_target - of_floor), strict=True))

    def _sparse_mass(self, flows: SparseFlows, batch: PromptBatch) -> dict[str, Tensor]:
        """`_mass`, from the listed nodes."""
        leaf = self.trie.leaf_of_item[batch.target].long()
        of_target = (flows.at(leaf) - flows.log_flow[: len(batch)]).exp()
        below = flows.values.value < self.at("reward_floor")
        of_floor = (flows.share(below) - flows.share(below, leaf)).float()
        return dict(zip(MASS, (of_target, of_floor, 1 - of_target - of_floor), strict=True))

    def floor_share(self, reward: Tensor, trajectories: Trajectories) -> Tensor:
        """The share of the trajectories that count whose reward [B, K] is below the floor."""
        mask = trajectories.source >= 0
        return ((reward < self.at("reward_floor")) & mask).sum() / mask.sum()


class KeptTarget:
    """`Target.score` of the training rows where the only trajectory is the target and the reward never changes.

    prompts_of: the prompts of training rows by their numbers. folder: where what is computed is kept.
    """

    def __init__(self, target: Target, prompts_of: Callable[[Sequence[int]], PromptBatch], folder: Path) -> None:
        self.target, self.sampler = target, TargetSampler(target.trie)
        self.memory = RowCache(self._by_row, prompts_of, folder)

    def score(self, batch: PromptBatch) -> tuple[Scores, dict[str, Tensor]]:
        rows, trie = len(batch), self.target.trie
        reward, log_reward, log_flow, child_log_flow, *mass = self.memory(batch)
        flows = PathFlows(
            log_flow.view(rows, 1, -1),
            child_log_flow.view(rows, 1, trie.levels, -1),
            torch.ones(rows, 1, dtype=torch.bool, device=reward.device),
        )
        return Scores(reward.unsqueeze(1), log_reward.unsqueeze(1), flows), dict(zip(self._names, mass, strict=True))

    @property
    def _names(self) -> tuple[str, ...]:
        return (*MASS, CUT_MASS) if self.target.whole == "sparse" else MASS

    def _by_row(self, batch: PromptBatch) -> list[tuple[Tensor, ...]]:
        scores, mass = self.target.score(batch, self.sampler.sample(batch, 1, 0))
        flows = scores.flows
        assert flows is not None
        parts = (scores.reward, scores.log_reward, flows.log_flow, flows.child_log_flow)
        return list(zip(*parts, *(mass[name] for name in self._names), strict=True))
