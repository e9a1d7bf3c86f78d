"""Group-relative policy optimization: a trajectory is good if its reward is above those of the same prompt."""

from typing import Literal

import torch
from torch import Tensor

from catalog.errors import InputError
from trainer.objectives.base import FlowInputs, LossOutput


def grpo(
    inputs: FlowInputs,
    *,
    beta: float = 0.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    scale_rewards: Literal["group", "none"] = "group",
    early_clip: float | None = None,
    use_bias_correction_kl: bool = True,
) -> LossOutput:
    """GRPO, arXiv 2402.03300, as in TRL; with early_clip ECPO, arXiv 2506.13695.

    A[b,k]    = (reward[b,k] - mean_k reward[b,k]) / (sd_k reward[b,k] + 1e-4), not divided with scale_rewards="none"
    r[b,k,l]  = exp(log_pf[b,k,l] - log_pf_behavior[b,k,l])
    KL[b,k,l] = exp(ref - log_pf) - (ref - log_pf) - 1,  ref = log_pf_reference[b,k,l]
    loss[b]   = mean_k mean_l -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta KL

    Where no older policy drew a trajectory r is 1 and its gradient that of log_pf. sd has K - 1 degrees of freedom.
    early_clip is ECPO's delta: where A < 0, log_pf_behavior is raised until r <= 1 + epsilon_high + delta, so that the
    gradient of what has become much likelier is bounded. epsilon_high is epsilon if not given. use_bias_correction_kl
    multiplies KL by r, so that its gradient is that of the reverse divergence (arXiv 2512.02556).
    """
    if inputs.reward is None:
        raise InputError("grpo needs reward.")
    high = epsilon if epsilon_high is None else epsilon_high
    mask = inputs.source >= 0  # [B, K]
    advantage, spread = advantages(inputs.reward, mask, scale_rewards)
    level = advantage.unsqueeze(-1)  # [B, K, 1]
    current = inputs.log_pf.detach()
    behavior = current if inputs.log_pf_behavior is None else inputs.log_pf_behavior
    behavior = torch.where(behavior.isnan(), current, behavior)
    if early_clip is not None:
        least = current - torch.tensor(1 + high + early_clip).log().to(current)
        behavior = torch.where(level < 0, behavior.maximum(least), behavior)
    ratio = (inputs.log_pf - behavior).exp()  # [B, K, L]
    clipped = ratio.clamp(1 - epsilon, 1 + high)
    step = -torch.minimum(ratio * level, clipped * level)
    outside = (((ratio < 1 - epsilon) & (level < 0)) | ((ratio > 1 + high) & (level > 0))).to(ratio)
    metrics = {
        "reward_std": spread.mean(),
        "frac_reward_zero_std": (spread == 0).to(spread).mean(),
        "clip_ratio/region_mean": inputs.batch_mean(outside.mean(-1)),
    }
    if beta:
        if inputs.log_pf_reference is None:
            raise InputError("grpo with beta > 0 needs log_pf_reference.")
        behind = inputs.log_pf_reference - inputs.log_pf  # [B, K, L]
        divergence = behind.exp() - behind - 1
        step = step + beta * (ratio * divergence if use_bias_correction_kl else divergence)
        metrics["kl"] = inputs.batch_mean(divergence.mean(-1))
    return LossOutput.per_prompt(inputs.mean(step.mean(-1)), metrics)


def advantages(reward: Tensor, mask: Tensor, scale_rewards: str) -> tuple[Tensor, Tensor]:
    """Advantage [B, K] and standard deviation [B] of rewards [B, K] within each prompt's trajectories, where `mask`."""
    count = mask.sum(-1, keepdim=True)
    mean = torch.where(mask, reward, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)
    above = torch.where(mask, reward - mean, 0.0)
    spread = (above.pow(2).sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return above if scale_rewards == "none" else above / (spread + 1e-4), spread.squeeze(-1)
