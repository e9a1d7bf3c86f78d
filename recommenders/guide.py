"""Guided decoding: what a recommender adds to each step of a beam."""

from dataclasses import dataclass

from torch import Tensor

from catalog import DENSE_ITEMS, DenseFlows, Flows, SparseFlows, SparseReward, SparseValues, Trie
from interactions import PromptBatch
from recommenders.base import Recommender
from recommenders.batch import BatchRecommender

LISTED = 1000
"""Beyond `DENSE_ITEMS` items, how many of the recommender's best ones count; all others have the floor."""


@dataclass(frozen=True)
class Guide:
    """A recommender that a beam also counts, as weight * log of its probability, at least `floor`, > 0.

    It reads histories alone, so it cannot know the target.
    """

    recommender: Recommender
    weight: float = 1.0
    floor: float = 1e-5

    def __call__(self, batch: PromptBatch, trie: Trie) -> "FlowGuide":
        """What each step of a beam for these prompts adds to its log P_F."""
        ask = BatchRecommender(self.recommender)
        if trie.items <= DENSE_ITEMS:
            return FlowGuide(DenseFlows(ask(batch).clamp(min=self.floor).log(), trie), self.weight)
        top = ask.top(batch, LISTED)
        reward = SparseReward(top.items, top.probabilities.clamp(min=self.floor), top.rest.clamp(min=self.floor))
        values = SparseValues.from_rewards([reward], [1.0], trie)
        return FlowGuide(SparseFlows(values, values.value.log()), self.weight)


@dataclass(frozen=True)
class FlowGuide:
    """weight * (log F(child) - log F(node)) with the exact flows of a reward: a `StepGuide` of `policy.beam`.

    A beam over log P_F + guide ranks by P_F * R ** weight, up to what it passes over. Only nodes that the beam reaches
    are asked for.
    """

    flows: Flows
    weight: float
    falls = True

    def __call__(self, nodes: Tensor, level: int) -> Tensor:
        return self.weight * self.flows.steps(nodes, level).clamp(max=0.0)  # above 0 by rounding alone
