"""The other items of the user's log."""

import torch
from torch.nn.functional import pad

from catalog import Trajectories, Trie
from interactions.prompts import PromptBatch
from samplers.base import draw, with_padding


class InteractionsSampler:
    """Uniform over the items that the user took beside the target: "interaction logs" of GFlowGR (arXiv 2506.16114).

    These are the prompt's history and, where the rows have it, the column `future_items`: the items a user took after
    the target. Each semantic ID counts once and is drawn at most once; with fewer than `count` of them the
    remaining slots are padding.
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        items = batch.history  # [B, N]
        if future := batch.columns.get("future_items"):
            longest = max(map(len, future))
            rows = [row + [-1] * (longest - len(row)) for row in map(list, future)]
            items = torch.cat([items, torch.tensor(rows, dtype=torch.long, device=items.device)], 1)  # [B, M]
        leaf, order = self.trie.leaf_number[items].where(items >= 0, -1).sort(dim=1, stable=True)
        repeated = pad(leaf.diff() == 0, (1, 0), value=False)
        target = self.trie.leaf_number[batch.target].unsqueeze(1)
        fresh = (leaf >= 0) & (leaf != target) & ~repeated
        drawn = draw(items.gather(1, order), fresh.float(), count, seed)
        return with_padding(drawn, batch, self.trie, "interactions")
