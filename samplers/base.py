"""Where trajectories come from."""

from dataclasses import replace
from typing import Protocol
from zlib import crc32

import torch
from torch import Tensor
from torch.nn.functional import pad

from catalog import PADDING, Trajectories, Trie
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from policy import ON_POLICY, Exploration


class Sampler(Protocol):
    """Draws `count` trajectories per prompt; the same (batch, count, seed) gives the same draw.

    The batch is a copy, so what a sampler changes in it changes nothing else. Where a prompt has fewer trajectories to
    give, the remaining slots have the source PADDING and hold any item.
    """

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories: ...


class Mixture:
    """Trajectories of several samplers side by side, a fixed number from each: {"target": 1, "random": 2, ...}."""

    def __init__(self, samplers: dict[str, Sampler], counts: dict[str, int]) -> None:
        if unknown := sorted(set(counts) - set(samplers)):
            raise InputError(f"There is no sampler {unknown[0]!r}.", remedy=f"Use some of {sorted(samplers)}.")
        if bad := [name for name, count in counts.items() if type(count) is not int or count < 0]:
            raise InputError(
                f"samplers: {bad[0]} has the count {counts[bad[0]]}.",
                remedy="Counts are whole numbers >= 0.",
                field="samplers",
            )
        self.samplers = samplers
        self.counts = {name: count for name, count in counts.items() if count}
        if not self.counts:
            raise InputError(
                "samplers: no trajectory is asked for.",
                remedy="Give at least one sampler a count of 1 or more.",
                field="samplers",
            )

    @property
    def count(self) -> int:
        """Trajectories per prompt, K."""
        return sum(self.counts.values())

    def sample(self, batch: PromptBatch, seed: int) -> Trajectories:
        """K trajectories per prompt, sources in the order of the counts."""
        return Trajectories.concat(
            [self.samplers[name].sample(batch.copy(), n, _stream(seed, name)) for name, n in self.counts.items()]
        )

    def start(self, batch: PromptBatch, seed: int) -> None:
        """Start the samplers that can draw in the background; `sample` with the same seed returns their draws."""
        for name, n in self.counts.items():
            if start := getattr(self.samplers[name], "start", None):
                start(batch, n, _stream(seed, name))


def _stream(seed: int, name: str) -> int:
    """The seed of one source. It depends on the name alone, so that adding another source changes no draws."""
    return seed * 31 + crc32(name.encode())


def check_beams(beams: bool, exploration: Exploration) -> None:
    """Raise InputError where a beam, which draws nothing, is to explore."""
    if beams and exploration != ON_POLICY:
        raise InputError(
            "policy: beams draw nothing, so temperature and epsilon would change nothing.",
            remedy="Leave out beams, or leave out both.",
            field="samplers",
        )


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A random stream that depends on `seed` alone."""
    return torch.Generator(device).manual_seed(seed % 2**63)


def draw(items: Tensor, weight: Tensor, count: int, seed: int) -> Tensor:
    """Items drawn without replacement in proportion to their weight: [B, M], [B, M] >= 0 -> [B, count].

    Exponential races (Efraimidis and Spirakis 2006), as in `torch.multinomial`, except that a row with fewer than
    `count` positive weights ends with -1.
    """
    race = weight / torch.empty_like(weight).exponential_(generator=generator(seed, weight.device))
    place, winner = race.topk(min(count, race.shape[1]))
    drawn = items.gather(1, winner).where(place > 0, -1)
    return pad(drawn, (0, count - drawn.shape[1]), value=-1)


def with_padding(items: Tensor, batch: PromptBatch, trie: Trie, source: str) -> Trajectories:
    """Trajectories to items [B, K] that no policy drew; -1 is an empty slot, which holds the target if it is known."""
    empty = items < 0
    filler = batch.history[:, -1] if batch.given_target is None else batch.target
    items = filler.unsqueeze(1).where(empty, items)
    drawn = Trajectories.from_items(items, trie.codes(items), source)
    return replace(drawn, source=drawn.source.masked_fill(empty, PADDING))
