"""Trajectory balance without a learned log Z: its best value for the K trajectories at hand."""

from catalog.errors import InputError
from trainer.objectives.base import FlowInputs, LossOutput, penalty


def vargrad(inputs: FlowInputs, *, clip: float | None = None) -> LossOutput:
    """Log-partition variance (VarGrad), arXiv 2302.05446.

    log_z[b] = mean_k (log_reward[b,k] - sum_l log_pf[b,k,l]), held constant
    loss[b]  = mean_k (log_z[b] + sum_l log_pf[b,k,l] - log_reward[b,k])^2

    The gradient is that of the variance over k, so only differences between trajectories of one prompt teach anything;
    it needs K >= 2. Equal to `tb` at the log Z that minimizes it. clip: see `penalty`.
    """
    if inputs.log_reward.shape[1] < 2:
        raise InputError(
            "vargrad compares the trajectories of a prompt: it needs at least 2, set higher sampler counts."
        )
    gap = inputs.log_pf.sum(-1) - inputs.log_reward  # [B, K]
    log_z = -inputs.mean(gap).detach().unsqueeze(-1)  # [B, 1]
    residual = log_z + gap
    metrics = {
        "flow/residual_rms": inputs.batch_mean(residual**2).sqrt(),
        "flow/log_z": inputs.batch_mean(log_z.expand_as(gap)),
    }
    return LossOutput.per_prompt(inputs.mean(penalty(residual, clip)), metrics)
