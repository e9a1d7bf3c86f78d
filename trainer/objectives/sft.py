"""Supervised fine-tuning: maximum likelihood of the items that users took."""

import torch

from catalog import SOURCES
from trainer.objectives.base import FlowInputs, LossOutput

TARGET = SOURCES.index("target")


def sft(inputs: FlowInputs) -> LossOutput:
    """L_GR of GFlowGR (arXiv 2506.16114) with the policy renormalized over the trie.

    loss[b] = mean over the targets k of -sum_l log_pf[b,k,l]

    Slots of other sources count for nothing; a prompt weighs as much as it has targets. log_reward is not read.
    """
    target = inputs.source == TARGET  # [B, K]
    nll = -inputs.log_pf.sum(-1)  # [B, K]
    count = target.sum(-1)  # [B]
    loss = torch.where(target, nll, 0.0).sum(-1) / count.clamp(min=1)
    return LossOutput(loss, count.to(loss.dtype), {"sft/loss": ((loss * count).sum() / count.sum()).detach()})
