"""Guided decoding: what a recommender adds to each step of a beam."""

from dataclasses import dataclass

from torch import Tensor

from catalog import DENSE_ITEMS, DenseFlows, Flows, SparseFlows, SparseReward, SparseValues, Trie
from interactions import PromptBatch
from recommenders.base import Recommender
from recommenders.batch import BatchRecommender
from recommenders.confidence import confidence, confidence_of_top

LISTED = 1000
"""Beyond `DENSE_ITEMS` items, how many of the recommender's best ones count; all others have the floor."""


@dataclass(frozen=True)
class Guide:
    """A recommender that a beam also counts, as weight * log of its probability, at least `floor`, > 0.

    It reads histories alone, so it cannot know the target. power: >= 0; a user's weight is weight * c ** power, where c
    is how sure the recommender is of that user's next item, see `confidence`.
    """

    recommender: Recommender
    weight: float = 1.0
    floor: float = 1e-5
    power: float = 0.0

    def __call__(self, batch: PromptBatch, trie: Trie) -> "FlowGuide":
        """What each step of a beam for these prompts adds to its log P_F."""
        ask = BatchRecommender(self.recommender)
        if trie.items <= DENSE_ITEMS:
            chances = ask(batch)
            flows: Flows = DenseFlows(chances.clamp(min=self.floor).log(), trie)
            return FlowGuide(flows, self._weight(confidence(chances)) if self.power else self.weight)
        top = ask.top(batch, LISTED)
        reward = SparseReward(top.items, top.probabilities.clamp(min=self.floor), top.rest.clamp(min=self.floor))
        values = SparseValues.from_rewards([reward], [1.0], trie)
        sure = self._weight(confidence_of_top(top, trie.items)) if self.power else self.weight
        return FlowGuide(SparseFlows(values, values.value.log()), sure)

    def _weight(self, sure: Tensor) -> Tensor:
        """The weight of each user [B, 1, 1], of a confidence [B]."""
        return self.weight * sure.clamp(min=0).view(-1, 1, 1) ** self.power


@dataclass(frozen=True)
class FlowGuide:
    """weight * (log F(child) - log F(node)) with the exact flows of a reward: a `StepGuide` of `policy.beam`.

    weight: one, or each user's [B, 1, 1]. A beam over log P_F + guide ranks by P_F * R ** weight, up to what it passes
    over. Only nodes that the beam reaches are asked for.
    """

    flows: Flows
    weight: float | Tensor
    falls = True

    def __call__(self, nodes: Tensor, level: int) -> Tensor:
        return self.weight * self.flows.steps(nodes, level).clamp(max=0.0)  # above 0 by rounding alone
