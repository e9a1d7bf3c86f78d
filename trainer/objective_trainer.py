"""The trainer of every method that is an objective: rewards, a reference policy, and L = w L_SFT + mean_u L(u)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from catalog import SOURCES, Catalog, Trajectories
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from policy import PathLogProbs
from rewards import Reward, RewardParts, WeightedSum, as_reward, build_rewards
from samplers import ReplaySampler
from trainer.metrics import trajectory_metrics
from trainer.objectives import FlowInputs
from trainer.provenance import import_path
from trainer.reference import PrecomputedReference, Reference, frozen_copy, numbered
from trainer.rollout_trainer import RolloutTrainer
from trainer.step import MicroBatch, Scores


class ObjectiveTrainer(RolloutTrainer):
    """Minimizes sft_weight * L_SFT + what `args.loss()` says of K trajectories per prompt.

    rewards: a reward that replaces those named in `args.rewards`. samplers: samplers by name, beside or instead of the
    stock ones; `args.samplers` says how many trajectories each gives. The target comes first among the trajectories.
    recommender: a recommender that replaces the one in `args.recommender`.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        catalog: Catalog,
        rewards: Reward | None = None,
        peft_config: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        self._loss = args.loss()
        self._source_weight = torch.tensor([args.source_weights.get(name, 1.0) for name in SOURCES])
        precomputed = getattr(args, "precompute_ref_log_probs", False)
        # under LoRA the policy that training starts from is the model without its adapters
        copied = args.reads_reference and peft_config is None and not precomputed
        frozen = frozen_copy(model) if copied else None
        if precomputed:
            kwargs["train_dataset"] = numbered(kwargs.get("train_dataset"))
        super().__init__(
            model, args, catalog=catalog, peft_config=peft_config, processing_class=processing_class, **kwargs
        )
        if self._mixture.count < args.fewest_trajectories:
            raise InputError(
                f"{type(self).__name__} with these settings needs {args.fewest_trajectories} trajectories per "
                f"prompt; samplers={args.samplers} give fewer."
            )
        self.reference: Reference | PrecomputedReference | None = None
        if args.reads_reference:
            self.reference = (
                PrecomputedReference(self, self.trie) if precomputed else Reference.from_trainer(self, frozen)
            )
        parts = RewardParts(catalog, self._recommender, self.policy, processing_class)
        self.reward: WeightedSum | None = None
        if rewards is not None:
            self._python_parts["rewards"] = import_path(rewards)
            named = {"reward": as_reward("reward", rewards, parts)}
            self.reward = WeightedSum(named, catalog=catalog, signed=args.signed_rewards)
        elif args.rewards or args.default_rewards:
            self.reward = build_rewards(args.rewards, parts, args.signed_rewards)
        if self.train_dataset is not None and self.reward is not None:
            self.check_reward(self.reward, *self._some_trajectories())

    def check_reward(self, reward: WeightedSum, batch: PromptBatch, trajectories: Trajectories) -> None:
        """Score some trajectories, so that a reward that cannot work fails before training."""
        reward(batch, trajectories)

    def _some_trajectories(self) -> tuple[PromptBatch, Trajectories]:
        """Some rows, each with its target and another item."""
        rows = self.train_dataset.select(range(min(8, len(self.train_dataset)))).to_list()
        batch = self.prompts(self.rows(rows, seed=0)).to(self.args.device)
        items = torch.stack([batch.target, (batch.target + 1) % self.trie.items], 1)
        return batch, Trajectories.from_items(items, self.trie.codes(items), "random")

    # what trajectories are worth

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        if self.reward is None:
            return super().score(batch, trajectories)
        reward = self.reward(batch, trajectories)
        self._note(trajectory_metrics(reward, trajectories, self.trie))
        return Scores(reward, torch.zeros_like(reward))

    def get_batch_samples(self, *args: Any) -> tuple[list[MicroBatch], Tensor | None]:
        steps, total = super().get_batch_samples(*args)
        # here all processes are together, as the forward of a sharded reference wants it
        return [replace(step, reference=self.log_pf_reference(step)) for step in steps], total

    def log_pf_reference(self, step: MicroBatch) -> Tensor | None:
        """[B, K, L], None where the objective does not read it."""
        if self.reference is None:
            return None
        return self.reference.log_probs(step.prompts, step.trajectories.items)

    # the loss

    def method_loss(self, model: nn.Module, step: MicroBatch, output: PathLogProbs) -> Tensor:
        inputs = self.inputs(step, output)
        result = self._loss(inputs)
        self._note({**result.metrics, "objective/loss": result.loss.mean(), **self.method_metrics(inputs)})
        for sampler in self._of(ReplaySampler).values():
            error = self.error(inputs)
            sampler.update(step.prompts, step.trajectories, step.scores.reward.clamp(min=0), error)
        return (result.loss * result.weight).sum() / step.num_prompts

    def inputs(self, step: MicroBatch, output: PathLogProbs) -> FlowInputs:
        """What the objective is given; `output` is that of the forward with gradients."""
        trajectories, scores = step.trajectories, step.scores
        leaf = self.trie.leaf_of_item
        return FlowInputs(
            log_pf=output.log_pf,
            log_reward=scores.log_reward,
            source=trajectories.source,
            weight=self._source_weight.to(trajectories.source.device)[trajectories.source.clamp(min=0)],
            reward=scores.reward,
            hit=leaf[trajectories.items] == leaf[step.prompts.target].unsqueeze(1),
            log_pf_reference=step.reference,
            # of the weights in training the log-probability is log_pf itself, whatever dropout or rounding says
            log_pf_behavior=trajectories.log_pf.masked_fill((trajectories.age == 0).unsqueeze(-1), torch.nan),
        )

    def error(self, inputs: FlowInputs) -> Tensor:
        """[B, K]: how much each trajectory can still teach, by which `replay` may choose."""
        assert inputs.reward is not None
        return inputs.reward - inputs.mean(inputs.reward).unsqueeze(-1)

    def method_metrics(self, inputs: FlowInputs) -> Mapping[str, Tensor]:
        """What is logged beside the objective's own metrics."""
        return {}
