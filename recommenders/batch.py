"""A recommender as rewards and samplers call it: by batch of prompts."""

from torch import Tensor

from interactions import PromptBatch
from recommenders.base import Recommender


class BatchRecommender:
    """What a recommender expects of each prompt.

    The answer to the last batch is kept, since a reward and several samplers call it with the same batch.
    """

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self._asked: tuple[list[list[int]], list[list[int]] | None] | None = None
        self._answer: Tensor

    def __call__(self, batch: PromptBatch) -> Tensor:
        """Probability that an item is the next one, `[B, items]` float32 on the batch's device; rows sum to 1.

        The batch's `user_items`, on training rows, are the whole training sequence of the row's user, which
        the recommender leaves out of its counts; without them it leaves nothing out.
        """
        asked = batch.item_lists(), batch.user_items
        if asked != self._asked:  # by content, since rewards and samplers get copies of the batch
            self._asked = asked[0], None if asked[1] is None else [list(items) for items in asked[1]]
            self._answer = self.recommender.probabilities(*asked).to(batch.history.device)
        return self._answer
