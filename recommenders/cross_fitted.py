"""A recommender that answers for a training user as it does for a new one."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from catalog.settings import at_least, check_name, check_values
from interactions import Splits, training_sequences
from recommenders.base import Histories, Recommender
from recommenders.top import Top, find_top


@dataclass(frozen=True)
class CrossFitted:
    """`whole`, fitted on all training users; for one of them the copy that was fitted without the user.

    A network that was trained on a history has seen what follows it, so what it expects there says less of what it
    expects of others. Out-of-fold answers (Wolpert, Stacked generalization, 1992) are honest. `without`, the user's
    whole training sequence, tells the copy: see `share_of`. Without it `whole` answers.
    """

    whole: Any
    copies: Sequence[Any]

    @dataclass(frozen=True)
    class Settings:
        """of: name of the recommender beside it. copies: each is fitted without one of so many shares of the users."""

        of: str
        copies: int = 3

        def __post_init__(self) -> None:
            check_values(self)
            check_name("of", self.of)
            at_least(self, 2, "copies")

    @classmethod
    def fitted(
        cls, whole: Recommender, fit: Callable[[Splits], Recommender], splits: Splits, copies: int
    ) -> "CrossFitted":
        """fit: a recommender like `whole` from other splits."""
        sequences = training_sequences(splits)
        share = np.array([share_of(items, copies) for items in sequences["history"][:]])
        others = (np.flatnonzero(share != number) for number in range(copies))
        return cls(whole, [fit(replace(splits, sequences=sequences.select(users))) for users in others])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers of all parts, the whole one first."""
        states = [part.state() for part in (self.whole, *self.copies)]
        tensors = {
            f"{number}.{name}": tensor for number, (found, _) in enumerate(states) for name, tensor in found.items()
        }
        return tensors, {"parts": [numbers for _, numbers in states]}

    @classmethod
    def from_state(
        cls, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], load: Callable[..., Recommender]
    ) -> "CrossFitted":
        """load: a part of its tensors and numbers."""
        named: list[dict[str, Tensor]] = [{} for _ in numbers["parts"]]
        for name, tensor in tensors.items():
            number, _, own = name.partition(".")
            named[int(number)][own] = tensor
        whole, *copies = (load(*state) for state in zip(named, numbers["parts"], strict=True))
        return cls(whole, copies)

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """`[B, items]` float32."""
        return self._routed(histories, without, lambda part, some: (part.score(some),))[0]

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """`[B, items]` float32."""
        return self._routed(histories, without, lambda part, some: (part.probabilities(some),))[0]

    def top(self, histories: Histories, k: int, without: Histories | None = None) -> Top:
        return Top(*self._routed(histories, without, lambda part, some: find_top(part, some, k)))

    def _routed(
        self,
        histories: Histories,
        without: Histories | None,
        ask: Callable[[Recommender, Histories], Sequence[Tensor]],
    ) -> Sequence[Tensor]:
        """Each of the answers `[B, ...]`, from the part that is to answer for the row.

        A copy has not counted the user, so it has nobody to leave out.
        """
        if without is None:
            return ask(self.whole, histories)
        share = np.array([share_of(items, len(self.copies)) for items in without])
        asked = [(part, np.flatnonzero(share == number)) for number, part in enumerate(self.copies)]
        answers = [ask(part, [histories[row] for row in rows]) for part, rows in asked if len(rows)]
        back = torch.from_numpy(np.concatenate([rows for _, rows in asked]).argsort())
        return [torch.cat(column)[back.to(column[0].device)] for column in zip(*answers, strict=True)]


def share_of(items: Sequence[int], copies: int) -> int:
    """The share of the users to which the one with this training sequence belongs, from 0."""
    return zlib.crc32(np.asarray(items, np.int32).tobytes()) % copies
