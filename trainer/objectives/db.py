"""Detailed balance: one residual for each step."""

from catalog.errors import InputError
from trainer.objectives.base import FlowInputs, LossOutput, penalty, with_reward


def db(inputs: FlowInputs, *, clip: float | None = None) -> LossOutput:
    """Detailed balance, arXiv 2111.09266, summed over the steps as in GFlowGR (arXiv 2506.16114); P_B = 1.

    loss[b] = mean_k sum_l (log_flow[b,k,l] + log_pf[b,k,l] - log_flow[b,k,l+1])^2,  log_flow[b,k,L] = log_reward[b,k]

    log_flow [B, K, L + 1] is log F(s) of every node on the path, learned or exact; its last column is replaced by the
    reward. With exact flows each step is a regression of log P_F to the known log F(child) - log F(node).
    """
    if inputs.log_flow is None:
        raise InputError("db needs log_flow: log F(s) of every node on the path.")
    log_flow = with_reward(inputs)  # [B, K, L + 1]
    residual = inputs.log_pf - log_flow.diff(dim=-1)  # [B, K, L]
    metrics = {
        "flow/residual_rms": inputs.batch_mean(residual.pow(2).mean(-1)).sqrt(),
        "flow/log_z": inputs.batch_mean(log_flow[..., 0]),
    }
    return LossOutput.per_prompt(inputs.mean(penalty(residual, clip).sum(-1)), metrics)
