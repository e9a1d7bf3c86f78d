"""What a recommender expects the user to take."""

from collections.abc import Callable

import torch
from torch import Tensor

from catalog import Catalog, Trajectories
from catalog.errors import InputError
from interactions.prompts import PromptBatch


class Collaborative:
    """r_y of GFlowGR (arXiv 2506.16114), from a recommender: its probability of the item, the best item's as 1.

    r_y[b, i] = p(i | user b) / max_j p(j | user b),  i and j among the items that count

    Where items share a leaf, each has the largest probability among them, so that a semantic ID has one reward.

    recommender: probabilities, or other values >= 0, of every item [B, items]. history: whether items of the prompt's
    history count; by default they have 0, since a recommendation is of something new.
    """

    def __init__(self, catalog: Catalog, recommender: Callable[[PromptBatch], Tensor], history: bool = False) -> None:
        self.recommender, self.history = recommender, history
        self.leaf, self.leaves = catalog.trie.leaf_number, catalog.trie.leaves

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return self.catalog(batch).gather(1, trajectories.items)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]. Raises InputError where the recommender scores another number of items."""
        score = self.recommender(batch).float()
        if score.shape != (len(batch), len(self.leaf)):
            raise InputError(
                f"The recommender's scores have shape {list(score.shape)} for {len(batch)} users and "
                f"{len(self.leaf)} items.",
                remedy="Fit it on the data of this run.",
            )
        leaf = self.leaf.to(score.device)
        value = score.new_zeros(len(batch), self.leaves + 1)  # the last column is the padding's
        value.scatter_reduce_(1, leaf.expand_as(score), score, "amax", include_self=False)
        if not self.history:
            value.scatter_(1, leaf[batch.history].where(batch.history >= 0, self.leaves), 0.0)
        best = value.amax(1, keepdim=True).clamp(
            min=torch.finfo(value.dtype).tiny
        )  # 0 / 0 for a user without a positive score
        return (value / best)[:, leaf]
