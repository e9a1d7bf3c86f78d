"""What a method is: what its loss reads, what it takes trajectories to be worth, and its loss beside the SFT term."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from datasets import Dataset
from torch import Tensor, nn

from catalog import SOURCES, Catalog, Trajectories, Trie
from interactions.prompts import PromptBatch, PromptBuilder
from policy import PathLogProbs, TriePolicy
from rewards import WeightedSum
from trainer.micro_batch import MicroBatch, Scores
from trainer.objectives import FlowInputs
from trainer.reporting.metrics import trajectory_metrics
from trainer.scoring.reference import PrecomputedReference, Reference


@dataclass(frozen=True)
class MethodParts:
    """What a run has to make its method of.

    reward: None where neither the config nor the caller gives one. reference: the policy that training starts from,
    None where the method reads none. progress: the share of the training that is done, 0 to 1. training_prompts: the
    prompts of training rows by their numbers.
    """

    catalog: Catalog
    trie: Trie
    policy: TriePolicy
    prompts: PromptBuilder
    reward: WeightedSum | None
    reference: Reference | PrecomputedReference | None
    progress: Callable[[], float]
    training_prompts: Callable[[Sequence[int]], PromptBatch]


@dataclass(frozen=True)
class MethodLoss:
    """A method's own loss of one micro-batch.

    loss: a scalar, summed over the micro-batch and divided by the counts of the whole optimizer step. metrics: detached
    scalars. replay_error [B, K]: the residual or the reward of each trajectory less the mean of its prompt, by which
    the sampler `replay` may choose; None without rewards.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    replay_error: Tensor | None = None


class Method(Protocol):
    """One object a run, made by the config of the method.

    reads_children: whether `loss` reads the log-probabilities of all children on the paths; reads_history: whether
    those of the history's items.
    """

    reads_children: bool
    reads_history: bool

    def check(self, batch: PromptBatch, trajectories: Trajectories) -> None:
        """Raise InputError before training where these trajectories cannot be scored."""
        ...

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        """What they are worth."""
        ...

    def reference_log_probs(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor | None:
        """log P_F [B, K, L] under the policy that training starts from, where `loss` reads it; all processes call."""
        ...

    def start(
        self, micro_batches: list[MicroBatch], heads: nn.ModuleDict | None, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Before the first optimizer step: let learned flows begin where the policy is. reduce: sums over processes."""
        ...

    def loss(self, micro_batch: MicroBatch, log_probs: PathLogProbs, heads: nn.ModuleDict | None) -> MethodLoss:
        """What the method adds to the SFT loss. heads: the learned flows, None where the method has none."""
        ...

    def held_out_metrics(self, rows: Dataset, batch_size: int) -> dict[str, float]:
        """What an evaluation measures beside the ranking; every process gets the same rows."""
        ...


class RewardScorer:
    """Trajectories are worth what a reward says; 1 without one."""

    def __init__(self, reward: WeightedSum | None, trie: Trie) -> None:
        self.reward, self.trie = reward, trie

    def check(self, batch: PromptBatch, trajectories: Trajectories) -> None:
        if self.reward is not None:
            self.reward(batch, trajectories)

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        if self.reward is None:
            reward = torch.ones_like(trajectories.items, dtype=torch.float32)
            return Scores(reward, torch.zeros_like(reward))
        reward = self.reward(batch, trajectories)
        return Scores(reward, torch.zeros_like(reward), metrics=trajectory_metrics(reward, trajectories, self.trie))


def flow_inputs(
    micro_batch: MicroBatch, log_probs: PathLogProbs, trie: Trie, source_weights: Mapping[str, float]
) -> FlowInputs:
    """What every objective reads of a micro-batch; source_weights: how much a source's trajectories count, default 1.

    log_probs: those of the forward with gradients.
    """
    trajectories, scores = micro_batch.trajectories, micro_batch.scores
    weights = torch.tensor([source_weights.get(name, 1.0) for name in SOURCES], device=trajectories.source.device)
    return FlowInputs(
        log_pf=log_probs.log_pf,
        log_reward=scores.log_reward,
        source=trajectories.source,
        weight=weights[trajectories.source.clamp(min=0)],
        reward=scores.reward,
        hit=trie.same_leaf(trajectories.items, micro_batch.prompts.target.unsqueeze(1)),
        log_pf_reference=micro_batch.reference,
        # of the weights in training the log-probability is log_pf itself, whatever dropout or rounding says
        log_pf_behavior=trajectories.log_pf.masked_fill((trajectories.age == 0).unsqueeze(-1), torch.nan),
    )
