"""Where trajectories come from."""

from typing import Protocol
from zlib import crc32

import torch

from catalog import Trajectories
from interactions.prompts import PromptBatch


class Sampler(Protocol):
    """Draws `count` trajectories per prompt; the same (batch, count, seed) gives the same draw.

    A sampler that holds a copy of the policy also has `sync(weights)`, which is called before each step.
    """

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories: ...


class Mixture:
    """Trajectories of several samplers side by side, a fixed number from each: {"target": 1, "random": 2, ...}."""

    def __init__(self, samplers: dict[str, Sampler], counts: dict[str, int]) -> None:
        if unknown := sorted(set(counts) - set(samplers)):
            raise ValueError(f"There is no sampler {unknown[0]!r}. Use some of {sorted(samplers)}.")
        if bad := [name for name, count in counts.items() if not isinstance(count, int) or count < 0]:
            raise ValueError(f"samplers: {bad[0]} has the count {counts[bad[0]]}. Counts are whole numbers >= 0.")
        self.samplers = samplers
        self.counts = {name: count for name, count in counts.items() if count}
        if not self.counts:
            raise ValueError("samplers: no trajectory is asked for. Give at least one sampler a count of 1 or more.")

    @property
    def count(self) -> int:
        """Trajectories per prompt, K."""
        return sum(self.counts.values())

    def sample(self, batch: PromptBatch, seed: int) -> Trajectories:
        """K trajectories per prompt, sources in the order of the counts."""
        # a source's stream depends on its name alone, so that adding one does not change another's draws
        return Trajectories.join(
            [self.samplers[name].sample(batch, n, seed * 31 + crc32(name.encode())) for name, n in self.counts.items()]
        )


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A random stream that depends on `seed` alone."""
    return torch.Generator(device).manual_seed(seed % 2**63)
