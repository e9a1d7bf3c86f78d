"""Item ids and item numbers: histories as callers give them, and ranked lists as callers read them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from catalog import Catalog, Trie
from catalog.errors import InputError

Scored = list[tuple[int, float]]
"""Items by number with their scores, best first."""


@dataclass(frozen=True)
class RankedList:
    """What one history is recommended, best first.

    items: ids; scores: the log-probability of each item's semantic ID, with the guide's part where there is one;
    titles: "" for an item without one. source: "policy", or "popularity" where the history holds no item of the
    catalog. unknown: events of the history whose item the catalog does not have. error: why there are no items.
    """

    items: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    titles: tuple[str, ...] = ()
    source: str = "policy"
    unknown: int = 0
    error: str | None = None

    def __len__(self) -> int:
        return len(self.items)


@dataclass
class ReadHistory:
    """A history by item numbers. excluded: items that may not come; error: why it cannot be read."""

    items: list[int]
    excluded: list[int] = field(default_factory=list)
    unknown: int = 0
    error: str | None = None

    def refusal(self) -> RankedList:
        return RankedList(unknown=self.unknown, error=self.error)


class ItemIds:
    """The ids of a catalog, both ways."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each id."""
        return {item: n for n, item in enumerate(self.catalog.item_ids)}

    def read(self, history: Any) -> ReadHistory:
        """A history of ids by numbers; it never raises, see `ReadHistory.error`."""
        if isinstance(history, np.ndarray):
            history = history.tolist()
        if not isinstance(history, list | tuple) or not all(_is_id(item) for item in history):
            shown = repr(history)
            return ReadHistory([], error=f"The history is no list of item ids: {shown[:80]}.")
        numbers = [self.number.get(str(item), -1) for item in history]
        known = [n for n in numbers if n >= 0]
        return ReadHistory(known, unknown=len(numbers) - len(known))

    def exclude(self, read: Sequence[ReadHistory], exclude: Any, *, seen: bool) -> None:
        """Write down what may not come for each history: what it holds, if `seen`, and the ids in `exclude`.

        exclude: None, ids for all, or ids for each. Raises InputError for what is neither, and for another number of
        lists than histories.
        """
        lists = _as_list(() if exclude is None else exclude, "exclude")
        if lists and all(_is_id(item) for item in lists):
            lists = [lists] * len(read)
        if lists and len(lists) != len(read):
            raise InputError(
                f"{len(read)} histories with {len(lists)} lists in exclude.",
                remedy="Give one list for all, or one for each history.",
                field="exclude",
            )
        for n, one in enumerate(read):
            further = self._numbers(lists[n], "exclude", n) if lists else []
            one.excluded = (one.items if seen else []) + further

    def allowed(self, filter: Collection[str] | Callable[[str], bool]) -> Tensor:
        """Which items a filter lets pass, [items] bool; unknown ids are ignored. Raises InputError for what is none."""
        if callable(filter):
            return torch.tensor([bool(filter(item)) for item in self.catalog.item_ids])
        found = torch.zeros(len(self.catalog), dtype=torch.bool)
        found[self._numbers(_as_list(filter, "filter"), "filter")] = True
        return found

    def _numbers(self, ids: Any, field: str, row: int | None = None) -> list[int]:
        """The numbers of the ids that the catalog has. Raises InputError where one of them is no id."""
        found = self.read(ids)
        if found.error:
            place = "" if row is None else f" for history {row}"
            raise InputError(
                f"{field}{place} is no list of item ids: {ids!r:.80}.",
                remedy="Give text or integers.",
                field=field,
                row=row,
            )
        return found.items

    def expand(
        self, leaves: Sequence[int], scores: Sequence[float], one: ReadHistory, allowed: Tensor | None
    ) -> Scored:
        """All items that may come, from one item a leaf, -1 behind the last; those of a leaf have its score."""
        found: Scored = []
        for item, score in zip(leaves, scores, strict=True):
            if (group := self.shared.get(item)) is None:
                found += [(item, score)] if item >= 0 else []
            else:
                left = [other for other in group if other not in one.excluded]
                found += [(other, score) for other in left if allowed is None or allowed[other]]
        return found

    @cached_property
    def shared(self) -> dict[int, list[int]]:
        """The items of each semantic ID that several have, by the one that stands for them."""
        trie = self.catalog.trie
        several = (trie.leaf_start.diff() > 1).nonzero()[:, 0]
        ends = zip(trie.leaf_start[several].tolist(), trie.leaf_start[several + 1].tolist(), strict=True)
        groups = [trie.leaf_items[start:end].tolist() for start, end in ends]
        return {group[0]: group for group in groups}

    def any_of_leaf(self, item: int, choice: np.random.Generator) -> int:
        """One of the items that the item of a leaf stands for, each as likely."""
        group = self.shared.get(item)
        return item if group is None else int(choice.choice(group))

    def as_list(self, ranked: Scored, one: ReadHistory, source: str = "policy") -> RankedList:
        """Items by number as a list for the caller."""
        ids, titles = self.catalog.item_ids, self.catalog.titles
        return RankedList(
            items=tuple(ids[item] for item, _ in ranked),
            scores=tuple(score for _, score in ranked),
            titles=tuple(titles[item] if titles else "" for item, _ in ranked),
            source=source,
            unknown=one.unknown,
            error=None if ranked else "No item is left: all are excluded.",
        )


def spread(ranked: Scored, trie: Trie, diversity: float, k: int) -> Scored:
    """The k items to show: the best ones, or with `diversity` varied ones.

    Each next item is then the best of those that are left, where an item loses diversity * (the largest share of
    leading codes that it has in common with any item above). Scores stay what they were. This is maximal marginal
    relevance (Carbonell and Goldstein, 1998) with semantic IDs for the similarity.
    """
    if not diversity or len(ranked) < 2:
        return ranked[:k]
    codes = trie.codes(torch.tensor([item for item, _ in ranked]))  # [n, L]
    shared = (codes[:, None] == codes[None]).long().cumprod(-1).sum(-1).double() / trie.levels  # [n, n]
    value = torch.tensor([score for _, score in ranked], dtype=torch.float64)  # any diversity stays finite
    penalty, chosen = torch.zeros(len(ranked), dtype=torch.float64), []
    for _ in range(min(k, len(ranked))):
        best = int((value - diversity * penalty).argmax())
        chosen.append(best)
        value[best] = -torch.inf
        penalty = penalty.maximum(shared[best])
    return [ranked[n] for n in chosen]


def _as_list(ids: Any, field: str) -> list[Any]:
    """A collection of ids as a list. Raises InputError for text, whose letters would be read as ids, and for others."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Collection):
        raise InputError(f"{field}={ids!r:.80} is no list of item ids.", remedy="Give a list.", field=field, value=ids)
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def _is_id(item: Any) -> bool:
    return isinstance(item, str | int | np.integer) and not isinstance(item, bool)
