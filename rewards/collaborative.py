"""What a recommender expects the user to take."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from catalog import Catalog, SparseReward, Trajectories
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from recommenders.batch import best_items


class Collaborative:
    """r_y of GFlowGR (arXiv 2506.16114), from a recommender: its probability of the item, the best item's as 1.

    r_y[b, i] = p(i | user b) / max_j p(j | user b),  i and j among the items that count

    Where items share a leaf, each has the largest probability among them, so that a semantic ID has one reward.

    recommender: probabilities, or other values >= 0, of every item [B, items]. history: whether items of the prompt's
    history count; by default they have 0, since a recommendation is of something new. reward_items: above 0 only so
    many of the recommender's best items have their values, and all others 0.
    """

    def __init__(
        self,
        catalog: Catalog,
        recommender: Callable[[PromptBatch], Tensor],
        history: bool = False,
        reward_items: int = 0,
    ) -> None:
        self.recommender, self.history, self.reward_items = recommender, history, reward_items
        self.trie, self.leaf, self.leaves = catalog.trie, catalog.trie.leaf_number, catalog.trie.leaves

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        if self.reward_items:
            return self.sparse(batch).at(trajectories.items, self.trie)
        return self.catalog(batch).gather(1, trajectories.items)

    def sparse(self, batch: PromptBatch) -> SparseReward:
        """The leaves of the recommender's best items."""
        trie = self.trie = self.trie.to(batch.history.device)
        history = batch.history[:, :0] if self.history else batch.history
        known = trie.leaf_of_item[history].long().where(history >= 0, -1)  # [B, N]
        known = known.masked_fill(_repeated(known), -1)
        spare = int((trie.items_below[known.clamp(min=0)] * (known >= 0)).sum(1).max()) if known.numel() else 0
        top = best_items(self.recommender, batch, self.reward_items + spare)
        if top.items.numel() and (highest := int(top.items.max())) >= trie.items:
            raise InputError(
                f"The recommender names item {highest} and the catalog has {trie.items}.",
                remedy="Fit it on the data of this run.",
            )
        leaf = trie.leaf_of_item[top.items].long().where(top.items >= 0, -1)  # [B, M]
        of_history = (leaf.unsqueeze(2) == known.unsqueeze(1)).any(2) & (leaf >= 0)
        fresh = (leaf >= 0) & ~of_history & (top.probabilities > 0)
        again = fresh & False if trie.leaf_is_item else fresh & _repeated(leaf)
        counts = fresh & ~again  # best first, so a leaf has the largest probability among its items
        counts &= counts.cumsum(1) <= self.reward_items
        chances = top.probabilities.where(counts, 0.0)
        best = chances.amax(1).maximum(top.rest).clamp(min=torch.finfo(chances.dtype).tiny).unsqueeze(1)
        allowed = 1 - top.probabilities.where(of_history, 0.0).sum(1)
        left = allowed - top.probabilities.where(counts | again, 0.0).sum(1)
        cut = (left / allowed.clamp(min=1e-6)).clamp(0, 1).where(top.rest == 0, 0.0)
        return SparseReward.from_nodes(
            torch.cat([leaf.masked_fill(~counts, -1), known], 1),
            torch.cat([chances / best, torch.zeros_like(known, dtype=chances.dtype)], 1),
            top.rest / best[:, 0],
            cut,
        )

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]. Raises InputError where the recommender scores another number of items."""
        if self.reward_items:
            return self.sparse(batch).dense(self.trie.to(batch.history.device))
        score = self.recommender(batch).float()
        if score.shape != (len(batch), len(self.leaf)):
            raise InputError(
                f"The recommender's scores have shape {list(score.shape)} for {len(batch)} users and "
                f"{len(self.leaf)} items.",
                remedy="Fit it on the data of this run.",
            )
        if self.trie.leaf_is_item:
            column, value = torch.arange(self.leaves, device=score.device), pad(score, (0, 1))
        else:
            column, value = self.leaf.to(score.device), score.new_zeros(len(batch), self.leaves + 1)
            value.scatter_reduce_(1, column.expand_as(score), score, "amax", include_self=False)
        if not self.history:  # the last column is the padding's
            value.scatter_(1, column[batch.history].where(batch.history >= 0, self.leaves), 0.0)
        best = value.amax(1, keepdim=True).clamp(
            min=torch.finfo(value.dtype).tiny
        )  # 0 / 0 for a user without a positive score
        return (value / best)[:, : self.leaves] if self.trie.leaf_is_item else (value / best)[:, column]


def _repeated(leaf: Tensor) -> Tensor:
    """Which of leaves [B, M] stand further to the left as well: [B, M] bool."""
    return (leaf.unsqueeze(2) == leaf.unsqueeze(1)).tril(-1).any(2)
