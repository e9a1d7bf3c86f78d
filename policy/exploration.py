"""How draws of the policy may depart from P_F."""

import math
from dataclasses import dataclass

from torch import Tensor

from catalog.errors import InputError

TEMPERATURES = (1e-30, 1e30)
"""Beyond these a float32 log-probability divided by the temperature is no number."""


@dataclass(frozen=True)
class Exploration:
    """The distribution of the next code in a draw: (1 - epsilon) P_F^(1/temperature) / Z + epsilon U.

    Z renormalizes over the legal children of the trie node, and U is uniform over them. temperature: above 1 flattens
    P_F, below 1 sharpens it. epsilon: in [0, 1), how often a code is drawn uniformly. The log-probabilities that are
    recorded of a draw stay those of P_F. Raises InputError for values outside these ranges.
    """

    temperature: float = 1.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        lowest, highest = TEMPERATURES
        if not lowest <= self.temperature <= highest:
            raise InputError(
                f"temperature={self.temperature}: draws of the policy need one above 0, from {lowest} to {highest}.",
                remedy="Set it to 1 for draws from P_F.",
                field="temperature",
                value=self.temperature,
            )
        if not 0 <= self.epsilon < 1:
            raise InputError(
                f"epsilon={self.epsilon}: the share of uniform draws is at least 0 and below 1.",
                remedy="Set it to 0 for draws from P_F.",
                field="epsilon",
                value=self.epsilon,
            )

    def probabilities(self, log_p: Tensor) -> Tensor:
        """Probability of drawing each child from log P_F of them, [..., C] -> [..., C]; -inf is no child."""
        probabilities = log_p.exp()
        if self.temperature != 1:
            # less the largest, so that a low temperature cannot make all of them -inf
            probabilities = ((log_p - log_p.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        if self.epsilon:
            legal = (log_p > -math.inf).to(log_p.dtype)
            uniform = legal / legal.sum(-1, keepdim=True)
            probabilities = (1 - self.epsilon) * probabilities + self.epsilon * uniform
        return probabilities


ON_POLICY = Exploration()
"""Draws from P_F itself."""
