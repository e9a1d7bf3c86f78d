"""Items whose vectors are near those of the history: no user need have taken them, so new items count like others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from catalog import Catalog
from catalog.errors import InputError
from interactions import Splits, read_vectors, training_matrix
from recommenders.base import Histories, fit_temperature, occurrences, rows_at_once


def centered_vectors(path: str, item_ids: Sequence[str]) -> np.ndarray:
    """The vectors of items in a file, less their mean, which tells none of them apart: `[items, d]` float32.

    Raises InputError for a file that lacks an item or cannot be read.
    """
    vectors = read_vectors(path, item_ids)
    return vectors - vectors.mean(0)


def unit_length(vectors: Tensor) -> Tensor:
    """Each of `[items, d]` at length 1; what is zero stays so."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)


@dataclass(frozen=True)
class TextKNN:
    """A kernel density of the history among the items' vectors, for instance those of their titles.

    score[b, i] = log sum over events j of history b of decay ** age(j) * exp((cos(j, i) - 1) / width),  j other than i

    where age 0 is the newest event. Vectors come from elsewhere, and only their metric is learned, from all histories
    together (`within_histories`), so `without` is ignored.

    vectors: `[items, d]`, unit length; zero for an item whose vector is zero. width: of the kernel, > 0; a small one
    looks for the nearest event, a large one at the mean of the history.
    """

    vectors: Tensor
    width: float = 0.1
    decay: float = 0.6
    temperature: float = 1.0

    @dataclass(frozen=True)
    class Settings:
        """vectors: a file .npz (ids, vectors) with all items of the catalog, as `prepare` takes it, or .npy."""

        vectors: str = ""
        width: float = 0.1
        decay: float = 0.6

        def __post_init__(self) -> None:
            for name, wrong in (("vectors", not self.vectors), ("width", self.width <= 0), ("decay", self.decay <= 0)):
                if wrong:
                    value = getattr(self, name)
                    raise InputError(
                        f"text_knn: {name}={value!r}.",
                        remedy="Name a file of vectors." if name == "vectors" else "It must be above 0.",
                        field=name,
                        value=value,
                    )

    @classmethod
    def from_catalog(cls, splits: Splits, catalog: Catalog, settings: Settings) -> "TextKNN":
        """The vectors of the catalog's items in the metric of the training histories (`within_histories`).

        The temperature is fitted on the validation items. Raises InputError for a file that lacks an item or cannot be
        read.
        """
        vectors = centered_vectors(settings.vectors, catalog.item_ids)
        scaled = torch.from_numpy((vectors @ within_histories(vectors, splits)).astype(np.float32))
        model = cls(unit_length(scaled), settings.width, settings.decay)
        return replace(model, temperature=fit_temperature(model, splits.validation))

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """The log density, `[B, items]` float32; the same for every item after an empty history."""
        rows = min(64, rows_at_once(len(self.vectors)))
        return torch.cat([self._score(histories[start : start + rows]) for start in range(0, len(histories), rows)])

    def _score(self, histories: Histories) -> Tensor:
        weights = occurrences(histories, len(self.vectors), self.decay)  # [B, items]
        events = torch.from_numpy(np.unique(weights.indices).astype(np.int64))  # [E], of all histories
        kernel = ((self.vectors[events] @ self.vectors.T - 1) / self.width).exp()  # [E, items]
        kernel[torch.arange(len(events)), events] = 0  # an event says nothing of its own item
        density = torch.from_numpy(weights[:, events.numpy()].toarray()).float() @ kernel  # [B, items]
        return density.clamp(min=torch.finfo(torch.float32).tiny).log()

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Softmax of the scores at the fitted temperature."""
        return (self.score(histories) / self.temperature).softmax(-1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"vectors": self.vectors}, {name: getattr(self, name) for name in ("width", "decay", "temperature")}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> "TextKNN":
        return cls(tensors["vectors"], **numbers)


def within_histories(vectors: np.ndarray, splits: Splits) -> np.ndarray:
    """The linear map [d, d] after which histories vary alike in all directions: relevant component analysis.

    The inverse root of C = (sum of (x - m) (x - m)^T + s I) / (n + d) over the n events x of the training histories,
    m being the mean of its history and s that of |x - m|^2: s I counts as one event a dimension, so that few events
    leave the vectors as they are up to their scale. What the items of one user differ in then counts less, and what
    they share counts more (Bar-Hillel et al., JMLR 2005).

    vectors: [items, d].
    """
    size = vectors.shape[1]
    taken = training_matrix(splits, len(vectors)).astype(np.float64)  # [users, items]
    by_user, by_item = (np.asarray(taken.sum(axis)).ravel() for axis in (1, 0))
    total = _gram(lambda part: np.sqrt(by_item[part, None]) * vectors[part], len(by_item))
    means = _gram(lambda part: taken[part] @ vectors / np.sqrt(by_user[part, None].clip(1)), len(by_user))
    scatter, events = total - means, by_item.sum()
    if np.trace(scatter) <= 1e-9 * np.trace(total):  # histories of one item say nothing of what varies in them
        return np.eye(size)
    own = np.trace(scatter) / events
    values, axes = np.linalg.eigh((scatter + own * np.eye(size)) / (events + size))
    return axes / np.sqrt(values.clip(own / (events + size))) @ axes.T


def _gram(rows: Callable[[slice], np.ndarray], count: int, block: int = 65_536) -> np.ndarray:
    """The sum of x x^T over `count` rows x, some at a time in double precision: [d, d]."""
    parts = (rows(slice(start, start + block)).astype(np.float64) for start in range(0, count, block))
    return np.sum([part.T @ part for part in parts], 0)
