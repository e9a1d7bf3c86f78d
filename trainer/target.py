"""What the policy should be proportional to: a reward with its floor, its temperature and a reference policy."""

from collections.abc import Callable

from torch import Tensor

from catalog import Trajectories, Trie, exact_log_flow
from interactions.prompts import PromptBatch
from rewards import WeightedSum, log_reward
from trainer.reference import Reference
from trainer.step import Scores


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
        """What trajectories are worth, and how the reward's mass is spread where all of it is known."""
        items = trajectories.items
        if self.whole:
            everything = self.reward.catalog(batch)  # [B, items]
            log_target = self._log_target(everything, batch)
            of_items, log_flow = log_target.gather(1, items), None
            if self.exact or self.trie.leaves < self.trie.items:  # a leaf is worth the sum of its items
                log_flow = exact_log_flow(log_target, self.trie)
                of_items = log_flow.gather(1, self.trie.leaf_of_item[items].long())
            return Scores(everything.gather(1, items), of_items, log_flow), self._mass(everything, log_target, batch)
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

    def _mass(self, everything: Tensor, log_target: Tensor, batch: PromptBatch) -> dict[str, Tensor]:
        """How the whole mass, after floor and temperature, divides among the target, the floor and the rest."""
        mass = log_target.softmax(-1)
        leaf = self.trie.leaf_of_item
        target = (leaf == leaf[batch.target].unsqueeze(1)) * mass  # [B, items]
        floor = (everything < self.at("reward_floor")) * (mass - target)
        shares = {"target": target.sum(-1).mean(), "floor": floor.sum(-1).mean()}
        return {f"reward/{n}_mass": v for n, v in (shares | {"rest": 1 - shares["target"] - shares["floor"]}).items()}

    def floor_share(self, reward: Tensor, trajectories: Trajectories) -> Tensor:
        """The share of the trajectories that count whose reward [B, K] is below the floor."""
        real = trajectories.source >= 0
        return ((reward < self.at("reward_floor")) & real).sum() / real.sum()
