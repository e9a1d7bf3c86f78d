"""Several recommenders as one: their errors differ, so the mixture has fewer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from catalog.errors import InputError
from catalog.settings import check_name
from recommenders.base import Histories, Recommender


@dataclass(frozen=True)
class Mixture:
    """probability[b, i] = sum over parts p of weights[p] * probability_p[b, i], weights divided by their sum.

    Raises InputError unless every part has one weight, none is negative and one is positive.
    """

    parts: Mapping[str, Recommender]
    weights: Mapping[str, float]

    @dataclass(frozen=True)
    class Settings:
        """weights: name of a part -> its weight."""

        weights: dict[str, float] = field(default_factory=dict)

        def __post_init__(self) -> None:
            for name in self.weights:  # those of folders
                check_name("weights", name)

    def __post_init__(self) -> None:
        if self.parts.keys() != self.weights.keys() or min(self.weights.values(), default=0) < 0 or not self._total:
            raise InputError(
                f"A mixture of {sorted(self.parts)} cannot have the weights {dict(self.weights)}.",
                remedy="Give each part one weight >= 0, and one of them a positive weight.",
            )

    @property
    def _total(self) -> float:
        return sum(self.weights.values())

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """The probabilities, `[B, items]` float32."""
        return self.probabilities(histories, without)

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Weighted mean of the parts' probabilities, `[B, items]` float32, on the CPU."""
        weighted = [
            weight / self._total * self.parts[name].probabilities(histories, without).cpu()
            for name, weight in self.weights.items()
        ]
        return sum(weighted[1:], weighted[0])
