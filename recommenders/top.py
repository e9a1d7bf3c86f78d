"""A recommender's best items, without a row of all items where the recommender can tell."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recommenders.base import ENTRIES

CHUNK = 65_536
"""Items whose inner products are computed at once."""


class Top(NamedTuple):
    """The best items of each row, best first.

    items [B, k], -1 behind the last one; probabilities [B, k] as among all items, 0 where empty; rest [B]: the
    probability of each other item where all of them have the same, else 0.
    """

    items: Tensor
    probabilities: Tensor
    rest: Tensor

    def to(self, device: torch.device) -> "Top":
        return Top(*(part.to(device) for part in self))


def find_top(recommender: Any, histories: Sequence[Sequence[int]], k: int, without: Any = None) -> Top:
    """The k best items of a recommender: by its own `top`, else of all its probabilities, some rows at a time.

    recommender: a `Recommender`; with a method `top` of these arguments it need not score the whole catalog.
    """
    if hasattr(recommender, "top"):
        return recommender.top(histories, k, without)
    parts, start, rows = [], 0, 1
    while start < len(histories):
        part = slice(start, start + rows)
        chances = recommender.probabilities(histories[part], None if without is None else without[part])
        parts.append(top_of(chances, k))
        start, rows = start + rows, max(1, ENTRIES // chances.shape[1])  # the first row says how many items there are
    return Top(*(torch.cat(column) for column in zip(*parts, strict=True)))


def top_of(chances: Tensor, k: int) -> Top:
    """The k best of probabilities [B, items]."""
    best, items = chances.topk(min(k, chances.shape[1]))
    least = chances.amin(1)
    alike = (best[:, -1] == least) & (k < chances.shape[1])
    return Top(items, best, least.where(alike, 0.0))


def top_of_products(users: Tensor, items: Tensor, k: int, temperature: float) -> Top:
    """The k best of softmax(users . items / temperature): users [B, d], items [n, d], some of the items at a time."""
    rows = max(1, ENTRIES // CHUNK)
    if len(users) > rows:
        parts = [top_of_products(part, items, k, temperature) for part in users.split(rows)]
        return Top(*(torch.cat(column) for column in zip(*parts, strict=True)))
    best = users.new_empty(len(users), 0)
    found = torch.empty(len(users), 0, dtype=torch.long, device=users.device)
    log_total = users.new_full((len(users),), -torch.inf)
    for start in range(0, len(items), CHUNK):
        logits = users @ items[start : start + CHUNK].T / temperature
        log_total = torch.logaddexp(log_total, logits.logsumexp(1))
        some, place = logits.topk(min(k, logits.shape[1]))
        best, chosen = torch.cat([best, some], 1).topk(min(k, best.shape[1] + some.shape[1]))
        found = torch.cat([found, place + start], 1).gather(1, chosen)
    return Top(found, (best - log_total.unsqueeze(1)).exp(), torch.zeros_like(log_total))
