"""Direct preference optimization: the target against each negative, pair by pair."""

from dataclasses import replace
from typing import Literal

from torch.nn.functional import logsigmoid

from catalog import PADDING
from trainer.objectives.base import FlowInputs, LossOutput
from trainer.objectives.preference import margins


def dpo(
    inputs: FlowInputs,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid",
) -> LossOutput:
    """DPO, arXiv 2305.18290, and its IPO variant, arXiv 2310.12036, as in TRL.

    Delta_k = sum_l log_pf[b,k,l] - sum_l log_pf_reference[b,k,l],  w the target, d a negative,
    mean_d weighted by `weight`
    sigmoid: loss[b] = mean_d -(1 - s) log sigma(beta (Delta_w - Delta_d)) - s log sigma(-beta (Delta_w - Delta_d))
    ipo:     loss[b] = mean_d ((Delta_w - Delta_d) / L - 1 / (2 beta))^2

    s is label_smoothing, the share of pairs that are believed to be the wrong way round (arXiv 2305.18290, conservative
    DPO). A prompt whose trajectories are all the target has no pair and counts for nothing.
    """
    margin, negative, metrics = margins(inputs, beta, "dpo")
    if loss_type == "ipo":
        pair = (margin / (beta * inputs.log_pf.shape[-1]) - 1 / (2 * beta)).pow(2)
    else:
        pair = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    loss = replace(inputs, source=inputs.source.where(negative, PADDING)).mean(pair)
    return LossOutput(loss, negative.any(-1).to(loss), metrics)
