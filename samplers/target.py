"""The item that the user took next: tau_1 of GFlowGR (arXiv 2506.16114)."""

from catalog import Trajectories, Trie
from interactions.prompts import PromptBatch


class TargetSampler:
    """The target, `count` times."""

    def __init__(self, trie: Trie) -> None:
        self.trie = trie

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        items = batch.target.unsqueeze(1).expand(-1, count)
        return Trajectories.from_items(items, self.trie.codes(items), "target")
