"""Softmax DPO: the target against all negatives at once."""

import torch
from torch.nn.functional import logsigmoid

from trainer.objectives.base import FlowInputs, LossOutput
from trainer.objectives.preference import margins


def sdpo(inputs: FlowInputs, *, beta: float = 1.0) -> LossOutput:
    """S-DPO, arXiv 2406.09215.

    loss[b] = -log sigma(-log sum_d exp(beta (Delta_d - Delta_w))),  Delta as in `dpo`, d over the negatives,
    each times its `weight`

    With one negative it is `dpo`. A prompt without a negative counts for nothing.
    """
    margin, negative, metrics = margins(inputs, beta, "sdpo")
    some = negative.any(-1)  # [B]
    share = 0.0 if inputs.weight is None else inputs.weight.log()
    pairs = torch.where(negative, share - margin, -torch.inf)
    # a row without negatives is given finite ones: the logsumexp of nothing has no gradient
    hardest = torch.where(some.unsqueeze(-1), pairs, 0.0).logsumexp(-1)
    loss = torch.where(some, -logsigmoid(-hardest), 0.0)
    return LossOutput(loss, some.to(loss), metrics)
