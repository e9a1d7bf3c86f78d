"""What DPO and S-DPO share: how much more the policy prefers the target to each negative than the reference does."""

import torch
from torch import Tensor

from catalog import SOURCES
from catalog.errors import InputError
from trainer.objectives.base import FlowInputs

TARGET = SOURCES.index("target")


def margins(inputs: FlowInputs, beta: float, name: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """beta (Delta_target - Delta_k) [B, K], which k are negatives [B, K], and TRL's metrics; see `dpo`.

    Delta_k = sum_l log_pf[b,k,l] - sum_l log_pf_reference[b,k,l]. A negative is every trajectory that does not end at
    the target's leaf. Raises InputError without log_pf_reference and hit.
    """
    if inputs.log_pf_reference is None or inputs.hit is None:
        raise InputError(f"{name} needs log_pf_reference, the policy that training starts from, and hit.", field=name)
    implicit = beta * (inputs.log_pf - inputs.log_pf_reference).sum(-1)  # [B, K], the implicit reward
    chosen = torch.where(inputs.source == TARGET, implicit, 0.0).sum(-1, keepdim=True)  # [B, 1], there is one target
    negative = (inputs.source >= 0) & ~inputs.hit.bool()
    if inputs.weight is not None:
        negative &= inputs.weight > 0
    margin = chosen - implicit
    detached = {"margins": margin, "accuracies": (margin > 0).to(margin), "rejected": implicit}
    metrics = {f"rewards/{key}": mean_over(value, negative) for key, value in detached.items()}
    return margin, negative, metrics | {"rewards/chosen": chosen.detach().mean()}


def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of values [B, K] where `chosen` [B, K], detached; 0 where nothing is."""
    return torch.where(chosen, values.detach(), 0.0).sum() / chosen.sum().clamp(min=1)
