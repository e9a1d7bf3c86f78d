"""Trajectory balance: one residual for each whole path."""

from catalog.errors import InputError
from trainer.objectives.base import FlowInputs, LossOutput, penalty


def tb(inputs: FlowInputs, *, clip: float | None = None) -> LossOutput:
    """Trajectory balance, arXiv 2201.13259, as in GFlowGR (arXiv 2506.16114): P_B = 1 since a prefix has one parent.

    loss[b] = mean_k (log_flow[b,k,0] + sum_l log_pf[b,k,l] - log_reward[b,k])^2

    log_flow[..., 0] is log Z(u), the same for the K trajectories of a prompt, learned or exact. At zero loss on every
    trajectory the policy samples items in proportion to their reward. clip: see `penalty`.
    """
    if inputs.log_flow is None:
        raise InputError("tb needs log_flow: its first column is log Z(u).")
    log_z = inputs.log_flow[..., 0]  # [B, K]
    residual = log_z + inputs.log_pf.sum(-1) - inputs.log_reward  # [B, K]
    metrics = {"flow/residual_rms": inputs.batch_mean(residual**2).sqrt(), "flow/log_z": inputs.batch_mean(log_z)}
    return LossOutput.per_prompt(inputs.mean(penalty(residual, clip)), metrics)
