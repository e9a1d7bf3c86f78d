"""The one signature of every objective: FlowInputs -> LossOutput."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from catalog.errors import InputError


@dataclass(frozen=True)
class FlowInputs:
    """What is known about K trajectories of each of B prompts: what every objective reads, with flows or without.

    log_pf [B, K, L] under the policy in training; log_reward [B, K] after floor and temperature; source [B, K]
    positions in `catalog.SOURCES`, negative for an empty slot, which no objective counts. Each of the rest is there for
    the objectives that ask for it: log_flow [B, K, L + 1], the learned or exact log F(s) of every node on the path, of
    which [..., 0] is log Z(u) and [..., L] the reward of the leaf; weight [B, K] >= 0, how much a trajectory counts
    among those of its prompt, all alike without it; child_log_pf and child_log_flow [B, K, L, C], of all children of
    each node that a step leaves, -inf behind the last child; reward [B, K] before floor and temperature; hit [B, K],
    whether a trajectory ends at the target's leaf; log_pf_reference [B, K, L] under the policy that training starts
    from; log_pf_behavior [B, K, L] under an older policy that drew them, NaN where none did.

    Raises InputError where the shapes disagree.
    """

    log_pf: Tensor
    log_reward: Tensor
    source: Tensor
    log_flow: Tensor | None = None
    weight: Tensor | None = None
    child_log_pf: Tensor | None = None
    child_log_flow: Tensor | None = None
    reward: Tensor | None = None
    hit: Tensor | None = None
    log_pf_reference: Tensor | None = None
    log_pf_behavior: Tensor | None = None

    def __post_init__(self) -> None:
        batch, count, levels = self.log_pf.shape
        pair, children = (batch, count), (batch, count, levels)
        wanted: dict[str, tuple[int, ...]] = dict.fromkeys(("log_reward", "source", "weight", "reward", "hit"), pair)
        wanted |= dict.fromkeys(("child_log_pf", "child_log_flow", "log_pf_reference", "log_pf_behavior"), children)
        for name, shape in (wanted | {"log_flow": (batch, count, levels + 1)}).items():
            value = getattr(self, name)
            if value is not None and value.shape[:3] != shape:
                raise InputError(
                    f"{name} has shape {tuple(value.shape)}; log_pf {tuple(self.log_pf.shape)} asks for {shape}.",
                    field=name,
                )

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean over the trajectories of each prompt: [B, K] -> [B], 0 for a prompt without any."""
        weight = self._weight()
        return torch.where(weight > 0, values * weight, 0.0).sum(-1) / weight.sum(-1).clamp(min=1e-12)

    def batch_mean(self, values: Tensor) -> Tensor:
        """Mean of [B, K] over all trajectories of the batch that count, detached."""
        counted = self._weight() > 0
        return torch.where(counted, values.detach(), 0.0).sum() / counted.sum().clamp(min=1)

    def _weight(self) -> Tensor:
        weight = torch.ones_like(self.log_reward) if self.weight is None else self.weight
        return torch.where(self.source >= 0, weight, 0.0)


@dataclass(frozen=True)
class LossOutput:
    """loss [B] per prompt, each the mean of `weight` [B] terms, so that the trainer can weigh prompts by their terms.

    metrics: detached scalars whose names are explained in `trainer.METRICS`.
    """

    loss: Tensor
    weight: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def per_prompt(cls, loss: Tensor, metrics: dict[str, Tensor]) -> "LossOutput":
        """Every prompt counts once."""
        return cls(loss, torch.ones_like(loss), {name: value.detach() for name, value in metrics.items()})


def penalty(residual: Tensor, clip: float | None) -> Tensor:
    """residual ** 2; beyond +-clip its tangent (Huber), so that the gradient is that of a clipped residual.

    Elementwise; None clips nothing.
    """
    if clip is None:
        return residual.pow(2)
    inside = residual.clamp(-clip, clip)
    return inside * (2 * residual - inside)


def with_reward(inputs: FlowInputs) -> Tensor:
    """log_flow [B, K, L + 1] with the reward as the flow of the leaf."""
    assert inputs.log_flow is not None
    return torch.cat([inputs.log_flow[..., :-1], inputs.log_reward.unsqueeze(-1)], -1)
