"""What a trajectory is worth."""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from catalog import Trajectories
from interactions.prompts import PromptBatch


class Reward(Protocol):
    """Scores trajectories: [B, K], finite and >= 0.

    A reward that also has `catalog(batch) -> [B, items]` scores every item at once, which makes exact flows possible.
    """

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor: ...


class WeightedSum:
    """R = sum_i weight_i * R_i over named rewards ("Sum" in GFlowGR, arXiv 2506.16114, section on the reward model).

    Raises ValueError naming the reward whose values are NaN, infinite, negative or of another shape than [B, K].
    """

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float] | None = None) -> None:
        self.rewards = dict(rewards)
        self.weights = {name: 1.0 for name in rewards} | dict(weights or {})
        if not rewards:
            raise ValueError("No reward is given. Name at least one, for instance hit.")
        if unknown := sorted(set(self.weights) - set(rewards)):
            raise ValueError(f"Weights are given for {unknown}, but the rewards are {sorted(rewards)}.")
        if bad := [name for name, weight in self.weights.items() if not 0 <= weight < math.inf]:
            raise ValueError(f"The weight of reward {bad[0]} is {self.weights[bad[0]]}. Weights are finite and >= 0.")

    def terms(self, batch: PromptBatch, trajectories: Trajectories) -> dict[str, Tensor]:
        """Each reward's weighted values [B, K], checked."""
        return {
            name: self.weights[name] * _checked(name, reward(batch, trajectories), trajectories.items.shape, batch)
            for name, reward in self.rewards.items()
        }

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return torch.stack(list(self.terms(batch, trajectories).values())).sum(0)

    @property
    def scores_catalog(self) -> bool:
        """Whether every term can score the whole catalogue."""
        return all(hasattr(reward, "catalog") for reward in self.rewards.values())

    def catalog(self, batch: PromptBatch) -> Tensor:
        """The sum for every item: [B, items], where `scores_catalog`."""
        total = torch.zeros((), device=batch.target.device)
        for name, reward in self.rewards.items():
            value = reward.catalog(batch)  # type: ignore[attr-defined]
            total = total + self.weights[name] * _checked(name, value, value.shape, batch)
        return total


def _checked(name: str, value: Tensor, shape: torch.Size, batch: PromptBatch) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != shape:
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"Reward {name} returned {what} for a tensor {list(shape)} [prompts, trajectories].")
    if len(bad := (~(value.isfinite() & (value >= 0))).nonzero()):
        row, column = bad[0].tolist()
        user = batch.columns.get("user", range(len(batch)))[row]
        raise ValueError(
            f"Reward {name} is {value[row, column].item()} for trajectory {column} of user {user!r}. "
            "Rewards are finite and >= 0; shift or clip it."
        )
    return value.float()


def log_reward(reward: Tensor, floor: float, temperature: float) -> Tensor:
    """log(max(R, floor)) / temperature, elementwise; floor > 0 because log 0 would end the run."""
    return reward.clamp(min=floor).log() / temperature
