"""Cross-entropy to the exact flows: all children of a visited node teach, not the sampled one alone."""

import torch

from catalog.errors import InputError
from trainer.objectives.base import FlowInputs, LossOutput


def flow_kl(inputs: FlowInputs) -> LossOutput:
    """Divergence from the exact child flows to the policy at every visited node.

    q[b,k,l,c] = exp(child_log_flow[b,k,l,c]) / sum_c exp(child_log_flow[b,k,l,c])
    loss[b]    = mean_k sum_l sum_c q[b,k,l,c] (log q[b,k,l,c] - child_log_pf[b,k,l,c])

    The gradient is that of the cross-entropy; the entropy of q is taken off so that 0 means balance. With trajectories
    drawn from R / Z its expectation is KL(R / Z || P_F) over items, by the chain rule.
    """
    if inputs.child_log_flow is None or inputs.child_log_pf is None:
        raise InputError(
            "flow_kl needs child_log_flow and child_log_pf: all children of every node on the path.", field="flow_kl"
        )
    log_q = inputs.child_log_flow.log_softmax(-1)  # [B, K, L, C]
    gap = torch.where(log_q > -torch.inf, log_q - inputs.child_log_pf, 0.0)  # 0 * inf behind the last child
    divergence = (log_q.exp() * gap).sum((-2, -1))  # [B, K]
    metrics = {"flow/divergence": inputs.batch_mean(divergence)}
    return LossOutput.per_prompt(inputs.mean(divergence), metrics)
