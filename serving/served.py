"""A recommender as its server calls it: batches of rows that are to be answered in the same way."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from recommenders import GenerativeRecommender, RankedList, Recommender


class Row(NamedTuple):
    """One history and what its list is to hold."""

    history: Any
    exclude: list[Any]
    k: int


@dataclass(frozen=True)
class Beam:
    """How lists are found. k: where it decides more than where a list ends, else 0."""

    exclude_seen: bool
    beam_width: int
    diversity: float
    k: int


@dataclass(frozen=True)
class Draws:
    """How items are drawn. number: of the request, since draws depend on the histories that are drawn with them."""

    n: int
    temperature: float
    seed: int
    number: int


@dataclass(frozen=True)
class Served:
    """A recommender and the settings of its server: guide, its weight, the usual beam and the largest batch."""

    recommender: GenerativeRecommender
    guide: Recommender | None = None
    guide_weight: float = 1.0
    beam_width: int = 50
    max_batch: int = 64

    @property
    def probe(self) -> tuple[Beam, list[Row]]:
        """What `draw` can answer as long as the engine works."""
        return Beam(False, self.beam_width, 0.0, 0), [Row([self.recommender.catalog.item_ids[0]], [], 1)]

    def warm_up(self) -> None:
        """Answer once, so that what cannot be served is told at the start. Raises what the recommender raises."""
        self.draw(*self.probe)

    def draw(self, how: Hashable, rows: Sequence[Row]) -> list[RankedList]:
        """The list of each row, cut where its own k says."""
        histories = [row.history for row in rows]
        if isinstance(how, Draws):
            return self.recommender.sample(
                histories, how.n, temperature=how.temperature, seed=how.seed, batch_size=self.max_batch
            )
        assert isinstance(how, Beam)
        ranked = self.recommender.recommend(
            histories,
            max(row.k for row in rows),
            exclude_seen=how.exclude_seen,
            exclude=[row.exclude for row in rows],
            guide=self.guide,
            guide_weight=self.guide_weight,
            diversity=how.diversity,
            beam_width=how.beam_width,
            batch_size=self.max_batch,
        )
        return [_cut(found, row.k) for found, row in zip(ranked, rows, strict=True)]


def _cut(found: RankedList, k: int) -> RankedList:
    if len(found.items) <= k:
        return found
    return replace(found, items=found.items[:k], scores=found.scores[:k], titles=found.titles[:k])
