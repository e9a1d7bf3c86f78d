"""The policy's own probability of a trajectory."""

from torch import Tensor

from catalog import Trajectories
from interactions.prompts import PromptBatch
from policy import TriePolicy


class Likelihood:
    """r_y of GFlowGR (arXiv 2506.16114), from the model itself: its probability of the item, without gradients.

    r_y[b, k] = P_F(item[b, k] | prompt b) / max_i P_F(i | prompt b)

    The largest probability is that of the whole catalogue, exactly, so the policy's favorite has 1 and nothing has
    more. The weights are the current ones, so the reward changes as the policy learns.
    """

    def __init__(self, policy: TriePolicy) -> None:
        self.policy = policy

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return self.catalog(batch).gather(1, trajectories.items)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]"""
        log_p = self.policy.distribution(batch)
        return (log_p - log_p.amax(1, keepdim=True)).exp()
