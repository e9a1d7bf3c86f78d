"""The one signature of every objective: FlowInputs -> LossOutput."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class FlowInputs:
    """What is known about K trajectories of each of B prompts.

    log_pf [B, K, L] under the policy in training; log_reward [B, K] after floor and temperature; source [B, K]
    positions in `catalog.SOURCES`, negative for an empty slot; log_flow [B, K, L + 1] the learned or exact log F(s) of
    every node on the path, of which an objective may need only [..., 0], log Z(u).

    Raises ValueError where the shapes disagree.
    """

    log_pf: Tensor
    log_reward: Tensor
    source: Tensor
    log_flow: Tensor | None = None

    def __post_init__(self) -> None:
        batch, count, levels = self.log_pf.shape
        wanted = {"log_reward": (batch, count), "source": (batch, count), "log_flow": (batch, count, levels + 1)}
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; log_pf {tuple(self.log_pf.shape)} asks for {shape}."
                )


@dataclass(frozen=True)
class LossOutput:
    """loss [B] per prompt, each the mean of `weight` [B] terms, so that the trainer can weigh prompts by their terms.

    metrics: detached scalars whose names are explained in `trainer.metrics`.
    """

    loss: Tensor
    weight: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def per_prompt(cls, loss: Tensor, metrics: dict[str, Tensor]) -> "LossOutput":
        """Every prompt counts once."""
        return cls(loss, torch.ones_like(loss), {name: value.detach() for name, value in metrics.items()})
