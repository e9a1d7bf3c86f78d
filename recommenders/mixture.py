"""Several recommenders as one: their errors differ, so the mixture has fewer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor

from catalog.errors import InputError
from catalog.settings import check_name, check_values
from recommenders.base import Histories, Recommender
from recommenders.confidence import confidence, fit_shares


@dataclass(frozen=True)
class Mixture:
    """probability[b, i] = sum over parts p of share[b, p] * probability_p[b, i].

    share[b, p] = weights[p] * exp(slopes[p] * confidence_p(b)), divided by the sum over the parts

    See `confidence`; without slopes a user's shares are everybody's. Raises InputError unless every part has one
    weight, none is negative and one is positive.
    """

    parts: Mapping[str, Recommender]
    weights: Mapping[str, float]
    slopes: Mapping[str, float] = field(default_factory=dict)

    @dataclass(frozen=True)
    class Settings:
        """weights: name of a part -> its weight.

        fit: "none" = the weights as they are; "weights" = those that give the validation items the highest likelihood,
        "confidence" = with slopes too. Of `weights` the names alone then count.
        """

        weights: dict[str, float] = field(default_factory=dict)
        fit: Literal["none", "weights", "confidence"] = "none"

        def __post_init__(self) -> None:
            check_values(self)
            for name in self.weights:  # those of folders
                check_name("weights", name)

    def __post_init__(self) -> None:
        if self.parts.keys() != self.weights.keys() or min(self.weights.values(), default=0) < 0 or not self._total:
            raise InputError(
                f"A mixture of {sorted(self.parts)} cannot have the weights {dict(self.weights)}.",
                remedy="Give each part one weight >= 0, and one of them a positive weight.",
            )

    @classmethod
    def of_parts(cls, parts: Mapping[str, Recommender], settings: Settings, validation: Dataset) -> "Mixture":
        """The mixture of the settings, fitted on the validation rows where these say so."""
        if settings.fit == "none" or not parts:
            return cls(parts, settings.weights)
        return cls(parts, *fit_shares(parts, validation, by_confidence=settings.fit == "confidence"))

    @property
    def numbers(self) -> dict[str, Any]:
        """What a mixture of the same parts is made with."""
        return {"weights": dict(self.weights), "slopes": dict(self.slopes)}

    @property
    def _total(self) -> float:
        return sum(self.weights.values())

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """The probabilities, `[B, items]` float32."""
        return self.probabilities(histories, without)

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Weighted mean of the parts' probabilities, `[B, items]` float32, on the CPU."""
        answers = {name: self.parts[name].probabilities(histories, without).cpu() for name in self.weights}
        if not any(self.slopes.values()):
            weighted = [weight / self._total * answers[name] for name, weight in self.weights.items()]
            return sum(weighted[1:], weighted[0])
        raised = [torch.exp(self.slopes[name] * confidence(answer)) for name, answer in answers.items()]  # each [B]
        shares = torch.tensor(list(self.weights.values())) * torch.stack(raised, 1)  # [B, parts]
        shares = shares / shares.sum(1, keepdim=True)
        return torch.stack([answers[name] * shares[:, [p]] for p, name in enumerate(answers)]).sum(0)
