"""A recommender as rewards and samplers call it: by batch of prompts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interactions import PromptBatch
from recommenders.base import Recommender
from recommenders.top import Top, find_top, top_of


class BatchRecommender:
    """What a recommender expects of each prompt.

    The answers to the last batch are kept, since a reward and several samplers call it with the same batch.
    """

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self._asked: tuple[list[list[int]], list[list[int]] | None] | None = None
        self._chances: Tensor | None = None
        self._top: Top | None = None

    def __call__(self, batch: PromptBatch) -> Tensor:
        """Probability that an item is the next one, `[B, items]` float32 on the batch's device; rows sum to 1.

        The batch's `user_items`, on training rows, are the whole training sequence of the row's user, which
        the recommender leaves out of its counts; without them it leaves nothing out.
        """
        asked = self._ask(batch)
        if self._chances is None:
            self._chances = self.recommender.probabilities(*asked).to(batch.history.device)
        return self._chances

    def top(self, batch: PromptBatch, k: int) -> Top:
        """At least the k items of the largest probability, best first, or as many as there are; see `Top`."""
        histories, without = self._ask(batch)
        if self._top is None or self._top.items.shape[1] < k:
            found = find_top(self.recommender, histories, k, without) if self._chances is None else None
            self._top = top_of(self(batch), k) if found is None else found.to(batch.history.device)
        return self._top

    def _ask(self, batch: PromptBatch) -> tuple[list[list[int]], list[list[int]] | None]:
        """Histories and what is left out; answers to another batch are forgotten."""
        asked = batch.item_lists(), batch.user_items
        if asked != self._asked:  # by content, since rewards and samplers get copies of the batch
            self._asked = asked[0], None if asked[1] is None else [list(items) for items in asked[1]]
            self._chances = self._top = None
        assert self._asked is not None
        return self._asked


def best_items(recommender: Callable[[PromptBatch], Tensor] | Any, batch: PromptBatch, k: int) -> Top:
    """The k best items of prompts by what rewards and samplers are given: `top` where it has it, else of all items."""
    found = recommender.top(batch, k) if hasattr(recommender, "top") else top_of(recommender(batch), k)
    return Top(found.items[:, :k], found.probabilities[:, :k], _rest(found, k))


def _rest(found: Top, k: int) -> Tensor:
    """What all items behind the k-th have, where they are alike."""
    if k >= found.items.shape[1]:
        return found.rest
    return torch.where((found.probabilities[:, k:] == found.rest.unsqueeze(1)).all(1), found.rest, 0.0)
