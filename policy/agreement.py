"""Whether two computations of the same log-probabilities differ by rounding, or compute different things."""

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT32_LARGEST = 1e-3
"""Largest difference of a step's log-probability that is rounding where both sides compute in float32."""
HALF_MEAN = 0.1
"""Mean difference of a step's log-probability, over steps with a choice, that is rounding in bfloat16 or float16.

The largest says nothing there: its rounding grows with the logits and with how many steps are compared.
"""
HALF_CORRELATION = 0.9
"""Least correlation of paths' log-probabilities in bfloat16 or float16, where these spread by more than rounding."""


@dataclass(frozen=True)
class Agreement:
    """How far log-probabilities are from those that they should be.

    largest, mean: of the absolute differences of steps with a choice. correlation: of the paths' log-probabilities; 1
    where these lie so close together that rounding decides it.
    """

    largest: float
    mean: float
    correlation: float

    @classmethod
    def of(cls, log_pf: Tensor, reference: Tensor) -> "Agreement":
        """From two log_pf [B, K, L]. A step whose log-probability is 0 in both has no choice."""
        chosen = (log_pf != 0) | (reference != 0)
        gap = (log_pf - reference).abs()[chosen].double()
        if not len(gap):
            return cls(0.0, 0.0, 1.0)
        paths = torch.stack([reference, log_pf]).double().sum(-1).flatten(1)  # [2, B * K]
        told_apart = paths.shape[1] > 2 and paths[0].std() > 4 * HALF_MEAN
        correlation = torch.corrcoef(paths)[0, 1].item() if told_apart else 1.0
        return cls(gap.max().item(), gap.mean().item(), correlation)

    def problem(self, exact: bool) -> str:
        """How they differ, where it is more than rounding, else "". exact: whether both sides compute in float32."""
        if exact:
            return "" if self.largest <= FLOAT32_LARGEST else f"by up to {self.largest:.2g}, not {FLOAT32_LARGEST:g}"
        if not self.mean <= HALF_MEAN:
            return f"by {self.mean:.2g} in the mean, not {HALF_MEAN:g}, and by up to {self.largest:.2g}"
        if not self.correlation >= HALF_CORRELATION:
            return f"by up to {self.largest:.2g}, and those of paths correlate by {self.correlation:.2g} alone"
        return ""
