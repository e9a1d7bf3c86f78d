"""Random negatives: items that the user has not taken."""

import torch
from torch import Tensor

from catalog import DENSE_ITEMS, Trajectories, Trie
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from samplers.base import generator
from samplers.unknown import is_unknown, known_leaves, unknown_items


class RandomSampler:
    """Uniform over the items but the target and the prompt's history, and those that share their semantic IDs.

    Distinct within a prompt.
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Raises InputError where fewer than `count` items are left to draw from."""
        draws = generator(seed, batch.history.device)
        if self.trie.items > DENSE_ITEMS:
            items = self._rejecting(batch, count, draws)
        else:
            weight = unknown_items(self.trie, batch).float()  # [B, items]
            self._check(int(weight.sum(1).min()), count)
            items = torch.multinomial(weight, count, generator=draws)
        return Trajectories.from_items(items, self.trie.codes(items), "random")

    def _rejecting(self, batch: PromptBatch, count: int, draws: torch.Generator) -> Tensor:
        """Draws of any item, of which those that are known or drawn before are dropped: [B, count].

        The largest number of items that a user can know is far below the catalog's, so few are.
        """
        known = known_leaves(self.trie, batch)
        taken = int((self.trie.items_below[known.clamp(min=0)] * (known >= 0)).sum(1).max())
        self._check(self.trie.items - taken, count)
        found = torch.full((len(batch), 0), -1, device=known.device)
        while found.shape[1] < count or (found[:, count - 1] < 0).any():
            more = torch.randint(self.trie.items, (len(batch), count + 8), generator=draws, device=known.device)
            found = torch.cat([found, more], 1)
            again = (found.unsqueeze(2) == found.unsqueeze(1)).tril(-1).any(2)
            fresh = (found >= 0) & ~again & is_unknown(self.trie, known, found)
            order = fresh.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            found = found.gather(1, order).where(fresh.gather(1, order), -1)
            found = found[:, :count]
        return found

    @staticmethod
    def _check(left: int, count: int) -> None:
        if left < count:
            raise InputError(
                f"{count} random trajectories are asked for, but only {left} items of the catalog are unknown to a "
                "user.",
                remedy="Ask for fewer.",
            )
