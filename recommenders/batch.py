"""A recommender as rewards and samplers call it: by batch of prompts."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import torch
from torch import Tensor

from interactions import PromptBatch
from recommenders.base import Recommender
from recommenders.top import Top, find_top, top_of


class BatchRecommender:
    """What a recommender expects of each prompt.

    The answers to the last batch are kept, since a reward and several samplers call it with the same batch.
    ahead: whether `start` begins answers in a thread.
    """

    def __init__(self, recommender: Recommender, *, ahead: bool = False) -> None:
        self.recommender, self.ahead = recommender, ahead
        self._answers: Answers | None = None
        self._known: deque[Answers] = deque()  # of batches to come
        self._last: Answers | None = None  # the last one of these that was asked
        self._thread = ThreadPoolExecutor(1, "recommender") if ahead else None

    def __call__(self, batch: PromptBatch) -> Tensor:
        """Probability that an item is the next one, `[B, items]` float32 on the batch's device; rows sum to 1.

        The batch's `user_items`, on training rows, are the whole training sequence of the row's user, which
        the recommender leaves out of its counts; without them it leaves nothing out.
        """
        return self._of(batch).chances()

    def top(self, batch: PromptBatch, k: int) -> Top:
        """At least the k items of the largest probability, best first, or as many as there are; see `Top`."""
        return self._of(batch).top(k)

    def start(self, batch: PromptBatch) -> None:
        """Begin in a thread what this batch will be asked: what the last one was that had been given here.

        Batches are asked in the order in which they are given here.
        """
        if self._thread is None:
            return
        answers = Answers(self.recommender, batch)
        self._known.append(answers)
        if self._last is not None:
            answers.begun = self._thread.submit(answers.compute, all_items=self._last.all_items, k=self._last.most)

    def _of(self, batch: PromptBatch) -> "Answers":
        asked = _asked(batch)  # by content, since rewards and samplers get copies of a batch
        if self._answers is None or self._answers.asked != asked:
            self._answers = self._find(asked) or Answers(self.recommender, batch)
        return self._answers

    def _find(self, asked: "Asked") -> "Answers | None":
        """Those that were begun for a batch; others that were begun before them are never asked for any more."""
        place = next((place for place, answers in enumerate(self._known) if answers.asked == asked), None)
        if place is None:
            return None
        for _ in range(place):
            self._known.popleft()
        self._last = self._known.popleft()
        if self._last.begun is not None:
            self._last.begun.result()
        return self._last


class Answers:
    """What a recommender says of one batch, each computed when it is first asked for."""

    def __init__(self, recommender: Recommender, batch: PromptBatch) -> None:
        self.recommender, self.device = recommender, batch.history.device
        histories, without = _asked(batch)
        self.asked = histories, None if without is None else [list(items) for items in without]
        self.begun: Future | None = None
        self.all_items, self.most = False, 0  # what was asked: the chances of all, how many best ones
        self._chances: Tensor | None = None
        self._top: Top | None = None

    def compute(self, *, all_items: bool, k: int) -> None:
        with torch.no_grad():  # which is of a thread
            if all_items:
                self._all()
            elif k:
                self._best(k)

    def chances(self) -> Tensor:
        self.all_items = True
        return self._all()

    def top(self, k: int) -> Top:
        self.most = max(self.most, k)
        return self._best(k)

    def _all(self) -> Tensor:
        if self._chances is None:
            self._chances = self.recommender.probabilities(*self.asked).to(self.device)
        return self._chances

    def _best(self, k: int) -> Top:
        if self._top is None or self._top.items.shape[1] < k:
            if self._chances is None:
                histories, without = self.asked
                self._top = find_top(self.recommender, histories, k, without).to(self.device)
            else:
                self._top = top_of(self._chances, k)
        return self._top


Asked: TypeAlias = tuple[list[list[int]], list[list[int]] | None]
"""Histories, and what is left out."""


def _asked(batch: PromptBatch) -> Asked:
    return batch.item_lists(), batch.user_items


def best_items(recommender: Callable[[PromptBatch], Tensor] | Any, batch: PromptBatch, k: int) -> Top:
    """The k best items of prompts by what rewards and samplers are given: `top` where it has it, else of all items."""
    found = recommender.top(batch, k) if hasattr(recommender, "top") else top_of(recommender(batch), k)
    return Top(found.items[:, :k], found.probabilities[:, :k], _rest(found, k))


def _rest(found: Top, k: int) -> Tensor:
    """What all items behind the k-th have, where they are alike."""
    if k >= found.items.shape[1]:
        return found.rest
    return torch.where((found.probabilities[:, k:] == found.rest.unsqueeze(1)).all(1), found.rest, 0.0)
