"""Matrix factorization by the `implicit` library: a history is folded in, so that its user need not be known."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from scipy import sparse
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from catalog.extras import extra
from catalog.settings import at_least
from interactions import Splits, training_matrix
from recommenders.base import Histories, fit_temperature
from recommenders.products import Products
from recommenders.top import Top


@dataclass(frozen=True)
class Factors(ABC):
    """Scores an item by the inner product of its factors y with what its history is folded into, u.

    u = argmin  sum over events j of alpha * decay ** age(j) * (1 - y[j] u)^2 + sum over items i of (y[i] u)^2
                + ridge * |u|^2,      age 0 = newest event

    Events pull to 1 and every item a little to 0: the users' half of implicit ALS (Hu et al., ICDM 2008), in which old
    events may count less. No count is kept from which a user could be taken out again, so `without` is ignored.

    factors: `[items, d]` float32. probes: how `top` finds the best items, see `Products`.
    """

    factors: Tensor
    alpha: float
    decay: float
    ridge: float
    temperature: float = 1.0
    probes: int = 0

    Settings: ClassVar[type]

    @classmethod
    def from_splits(cls, splits: Splits, items: int, settings: Any) -> Self:
        """Factors of the training interactions; the temperature is fitted on the validation items.

        Raises SetupError without the library that factorizes.
        """
        with extra("recommenders", f"Fitting {cls.__name__}"):
            from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):  # `implicit` has threads of its own and asks for this
            factors = cls.factorize(training_matrix(splits, items), settings)
        model = cls(factors, settings.alpha, settings.decay, settings.ridge, probes=settings.probes)
        return replace(model, temperature=fit_temperature(model, splits.validation))

    @staticmethod
    @abstractmethod
    def factorize(interactions: sparse.csr_matrix, settings: Any) -> Tensor:
        """Item factors `[items, d]` of interactions `[users, items]`."""

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Inner products, `[B, items]` float32; 0 for every item after an empty history."""
        return self._users(histories) @ self.factors.T

    def top(self, histories: Histories, k: int, without: Histories | None = None) -> Top:
        """The k items with the largest `probabilities`."""
        return self._products.top(self._users(histories), k, self.temperature)

    @cached_property
    def _products(self) -> Products:
        return Products(self.factors, self.probes)

    def _users(self, histories: Histories) -> Tensor:
        """u of any number of histories, `[B, d]`."""
        return torch.cat([self._fold_in(histories[start : start + 256]) for start in range(0, len(histories), 256)])

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Softmax of the scores at the fitted temperature."""
        return (self.score(histories) / self.temperature).softmax(-1)

    def _fold_in(self, histories: Histories) -> Tensor:
        """u of each history, `[B, d]`."""
        items = [torch.tensor(history, dtype=torch.long) for history in histories]
        history = pad_sequence(items, batch_first=True, padding_value=-1, padding_side="left")  # [B, N]
        age = torch.arange(history.shape[1]).flip(0)  # [N]
        weight = self.alpha * self.decay**age * (history >= 0)  # [B, N]
        events = self.factors[history]  # [B, N, d]
        pull = torch.einsum("bn,bnd->bd", weight, events)
        inertia = self.factors.T @ self.factors + self.ridge * torch.eye(events.shape[-1])  # [d, d]
        return torch.linalg.solve(inertia + torch.einsum("bn,bnd,bne->bde", weight, events, events), pull)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        numbers = {name: getattr(self, name) for name in ("alpha", "decay", "ridge", "temperature", "probes")}
        return {"factors": self.factors}, numbers

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> Self:
        return cls(tensors["factors"], **numbers)


class ALS(Factors):
    """Implicit alternating least squares, Hu et al., ICDM 2008."""

    @dataclass(frozen=True)
    class Settings:
        """alpha and ridge hold for training as for folding in; the order of events counts when folding in only.

        probes: 0, or how many clusters of items are searched for a user's best ones, see `Products`.
        """

        dimensions: int = 64
        alpha: float = 3.0
        ridge: float = 30.0
        decay: float = 0.9
        iterations: int = 15
        seed: int = 0
        probes: int = 0

        def __post_init__(self) -> None:
            at_least(self, 0, "probes")

    @staticmethod
    def factorize(interactions: sparse.csr_matrix, settings: Settings) -> Tensor:
        with extra("recommenders", "Fitting ALS"):
            from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(
            settings.dimensions,
            settings.ridge,
            settings.alpha + 1,  # the library's is the whole weight of an event
            iterations=settings.iterations,
            random_state=settings.seed,
            use_gpu=False,
        )
        model.fit(interactions, show_progress=False)
        return torch.from_numpy(model.item_factors)


class BPR(Factors):
    """Bayesian personalized ranking, arXiv 1205.2618.

    An item's bias is its last factor. In training it has the weight 1 for every user; folding in fits a weight for each
    history. Least squares works on another scale than the pairwise loss, where a fixed bias would outweigh the others.
    """

    @dataclass(frozen=True)
    class Settings:
        """learning_rate, regularization, iterations: of training; alpha, ridge, decay: of folding in; probes: ALS's."""

        dimensions: int = 64
        learning_rate: float = 0.01
        regularization: float = 0.01
        iterations: int = 100
        alpha: float = 10.0
        ridge: float = 100.0
        decay: float = 0.9
        seed: int = 0
        probes: int = 0

        def __post_init__(self) -> None:
            at_least(self, 0, "probes")

    @staticmethod
    def factorize(interactions: sparse.csr_matrix, settings: Settings) -> Tensor:
        with extra("recommenders", "Fitting BPR"):
            from implicit.bpr import BayesianPersonalizedRanking

        model = BayesianPersonalizedRanking(
            settings.dimensions,
            settings.learning_rate,
            settings.regularization,
            iterations=settings.iterations,
            num_threads=1,  # more would update the same factors in an order that no seed settles
            random_state=settings.seed,
            use_gpu=False,
        )
        model.fit(interactions, show_progress=False)
        return torch.from_numpy(model.item_factors)
