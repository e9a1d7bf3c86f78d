"""Negatives that grow harder: a recommender's curriculum."""

from collections.abc import Callable

import torch
from torch import Tensor

from catalog import Trajectories, Trie
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from samplers.base import draw
from samplers.unknown import best_unknown


class CurriculumSampler:
    """Items with low scores early in training, and items near the user's taste later (arXiv 2506.16114).

    A prompt's candidates are its `pool` unknown items with the highest scores (`unknown_items`). A low score among them
    is easy, a high one hard. A window over a share `window` of the candidates moves evenly from the easy end to the
    hard end. It arrives there when `progress()`, the share of training that is done, reaches `until`. Draws are uniform
    inside the window and distinct within a prompt.

    recommender: prompts -> probabilities [B, items].
    """

    def __init__(
        self,
        trie: Trie,
        recommender: Callable[[PromptBatch], Tensor],
        progress: Callable[[], float],
        pool: int = 200,
        window: float = 0.25,
        until: float = 0.8,
    ) -> None:
        if pool < 1:
            raise InputError(
                f"curriculum: pool={pool} leaves no candidates.", remedy="Set it to 1 or more.", field="curriculum"
            )
        for name, share in (("window", window), ("until", until)):
            if not 0 < share <= 1:
                raise InputError(
                    f"curriculum: {name}={share} is not a share.",
                    remedy="Set it above 0 and up to 1.",
                    field="curriculum",
                )
        self.trie, self.recommender, self.progress = trie, recommender, progress
        self.pool, self.window, self.until = pool, window, until

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Raises InputError where the window of some prompt holds fewer than `count` items."""
        items = best_unknown(self.trie, batch, self.recommender, self.pool)  # [B, pool], the hardest first
        candidates = (items >= 0).sum(1, keepdim=True)  # [B, 1]
        size = (self.window * candidates).round()  # [B, 1]
        if (smallest := int(size.min())) < count:
            raise InputError(
                f"curriculum: {count} trajectories are asked for, but a window of {self.window} of "
                f"{int(candidates.min())} candidates holds {smallest}.",
                remedy="Raise window or pool, or ask for fewer.",
                field="curriculum",
            )
        remaining = 1 - min(self.progress() / self.until, 1.0)
        start = (remaining * (candidates - size)).round()  # [B, 1]
        column = torch.arange(items.shape[1], device=items.device)
        inside = (column >= start) & (column < start + size)  # [B, pool]
        drawn = draw(items, inside.float(), count, seed)
        return Trajectories.from_items(drawn, self.trie.codes(drawn), "curriculum")
