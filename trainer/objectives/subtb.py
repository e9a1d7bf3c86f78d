"""Sub-trajectory balance: one residual for every stretch of a path."""

import torch

from catalog.errors import InputError
from trainer.objectives.base import FlowInputs, LossOutput, penalty, with_reward


def subtb(inputs: FlowInputs, *, lambda_: float = 0.9, clip: float | None = None) -> LossOutput:
    """Sub-trajectory balance SubTB(lambda), arXiv 2209.12782; P_B = 1.

    residual[b,k,i,j] = log_flow[b,k,i] + sum_{i<=l<j} log_pf[b,k,l] - log_flow[b,k,j],  log_flow[b,k,L] = log_reward
    loss[b] = mean_k sum_{i<j} lambda^(j-i) residual[b,k,i,j]^2 / sum_{i<j} lambda^(j-i)

    lambda -> 0 leaves the single steps (`db` / L), lambda -> infinity the whole path (`tb`).
    """
    if inputs.log_flow is None:
        raise InputError("subtb needs log_flow: log F(s) of every node on the path.")
    log_flow = with_reward(inputs)  # [B, K, L + 1]
    reached = torch.nn.functional.pad(inputs.log_pf.cumsum(-1), (1, 0)) - log_flow  # [B, K, L + 1]
    start, end = torch.triu_indices(reached.shape[-1], reached.shape[-1], 1, device=reached.device)  # [pairs]
    residual = reached[..., end] - reached[..., start]  # [B, K, pairs]
    # lambda^(j-i) / sum, by logarithms so that a huge lambda does not overflow
    share = ((end - start) * torch.tensor(lambda_, dtype=residual.dtype).log()).softmax(0)
    metrics = {
        "flow/residual_rms": inputs.batch_mean((residual.pow(2) * share).sum(-1)).sqrt(),
        "flow/log_z": inputs.batch_mean(log_flow[..., 0]),
    }
    return LossOutput.per_prompt(inputs.mean((penalty(residual, clip) * share).sum(-1)), metrics)
