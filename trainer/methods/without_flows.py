"""The method of every config but GFlowNet's: supervised fine-tuning, preferences and policy gradients."""

from collections.abc import Callable, Mapping

from datasets import Dataset
from torch import Tensor, nn

from catalog import Trajectories
from interactions.prompts import PromptBatch
from policy import PathLogProbs
from trainer.methods.base import MethodLoss, MethodParts, RewardScorer, flow_inputs
from trainer.micro_batch import MicroBatch, Scores
from trainer.objectives import FlowInputs, Objective


class WithoutFlows:
    """mean_u L(u) of an objective that reads log-probabilities and rewards; None adds nothing to the SFT term."""

    reads_children = False
    reads_history = False

    def __init__(self, objective: Objective | None, parts: MethodParts, source_weights: Mapping[str, float]) -> None:
        self.objective, self.reference = objective, parts.reference
        self.scorer = RewardScorer(parts.reward, parts.trie)
        self._trie, self._source_weights = parts.trie, source_weights

    def check(self, batch: PromptBatch, trajectories: Trajectories) -> None:
        self.scorer.check(batch, trajectories)

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        return self.scorer.score(batch, trajectories)

    def reference_log_probs(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor | None:
        return None if self.reference is None else self.reference.log_probs(batch, trajectories.items)

    def start(
        self, micro_batches: list[MicroBatch], heads: nn.ModuleDict | None, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """It has no flows."""

    def loss(self, micro_batch: MicroBatch, log_probs: PathLogProbs, heads: nn.ModuleDict | None) -> MethodLoss:
        if self.objective is None:
            return MethodLoss(log_probs.log_pf.new_zeros(()))
        inputs = self.inputs(micro_batch, log_probs)
        result = self.objective(inputs)
        assert inputs.reward is not None  # by flow_inputs
        error = inputs.reward - inputs.mean(inputs.reward).unsqueeze(-1)
        loss = (result.loss * result.weight).sum() / micro_batch.num_prompts
        return MethodLoss(loss, {**result.metrics, "objective/loss": result.loss.detach().mean()}, error)

    def inputs(self, micro_batch: MicroBatch, log_probs: PathLogProbs) -> FlowInputs:
        """What the objective is given."""
        return flow_inputs(micro_batch, log_probs, self._trie, self._source_weights)

    def held_out_metrics(self, rows: Dataset, batch_size: int) -> dict[str, float]:
        return {}
