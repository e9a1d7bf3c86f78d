"""GFlowNet fine-tuning (GFlowGR, arXiv 2506.16114)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from catalog import SOURCES, Catalog, Trajectories
from interactions.prompts import PromptBatch
from policy import PathLogProbs, inference
from rewards import Reward, WeightedSum, build_rewards, log_reward
from samplers import Mixture, PolicySampler, RandomSampler, Sampler, TargetSampler
from trainer.config import GFlowNetConfig
from trainer.flow_heads import NAME, LogZHead, start_at
from trainer.objectives import OBJECTIVES, FlowInputs
from trainer.trajectory_trainer import Step, TrajectoryTrainer

FLOOR_MASS_ITEMS = 50_000
"""Catalogues up to this size are scored as a whole at every step, to log what share of the target is floor."""


class GFlowNetTrainer(TrajectoryTrainer):
    """Teaches the policy to sample items in proportion to their reward: L = L_SFT + flow_weight * mean_k L_GFN(tau_k).

    rewards: a reward that replaces those named in `args.rewards`. samplers: samplers by name, beside or instead of
    target, random and policy; `args.samplers` says how many trajectories each gives. The target comes first among the
    trajectories, and `args.samplers` must ask for it.
    """

    args: GFlowNetConfig

    def __init__(
        self,
        model: Any,
        args: GFlowNetConfig,
        *,
        catalog: Catalog,
        rewards: Reward | None = None,
        samplers: Mapping[str, Sampler] | None = None,
        **kwargs: Any,
    ) -> None:
        assert isinstance(args.samplers, dict) and isinstance(args.rewards, dict)  # by GFlowNetConfig
        if args.samplers.get("target") != 1:
            raise ValueError(
                f"samplers={args.samplers}: target: 1 is missing, the trajectory that the SFT term learns."
            )
        args.samplers = {"target": 1} | args.samplers  # in front, whatever the order of the recipe
        self._samplers = dict(samplers or {})
        self._reward = WeightedSum({"reward": rewards}) if rewards else build_rewards(args.rewards, catalog)
        self._objective = OBJECTIVES[args.objective]
        if sum(args.samplers.values()) < self._objective.trajectories:
            raise ValueError(
                f"{args.objective} needs {self._objective.trajectories} trajectories per prompt; "
                f"samplers={args.samplers} give fewer."
            )
        if self._objective.learns_log_z:
            setattr(model, NAME, nn.ModuleDict({"log_z": LogZHead(model.config.hidden_size)}))
        super().__init__(model, args, catalog=catalog, **kwargs)
        if self.train_dataset is not None:
            self._check_reward()

    def _check_reward(self) -> None:
        """Score a target and a random item of some rows, so that a reward that cannot work fails before training."""
        batch = self.prompts(self.train_dataset.select(range(min(8, len(self.train_dataset)))).to_list())
        batch = batch.to(self.args.device)
        samplers: dict[str, Sampler] = {"target": TargetSampler(self.trie), "random": RandomSampler(self.trie)}
        self._reward(batch, Mixture(samplers, {"target": 1, "random": 1}).sample(batch, seed=0))

    def mixture(self) -> Mixture:
        stock: dict[str, Sampler] = {
            "target": TargetSampler(self.trie),
            "random": RandomSampler(self.trie),
            "policy": PolicySampler(self.policy),
        }
        return Mixture(stock | self._samplers, self.args.samplers)  # type: ignore[arg-type]

    def rewards(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        reward = self._reward(batch, trajectories)
        repeats = (trajectories.items.sort(-1).values.diff() == 0).float().sum() / trajectories.items.numel()
        self._note(
            {
                "reward/mean": reward.mean(),
                "reward/floor_share": (reward < self.args.reward_floor).float().mean(),
                "sampler/valid_share": (self.trie.leaf(trajectories.codes) >= 0).float().mean(),
                "sampler/distinct_share": 1 - repeats,
            }
        )
        if self._reward.scores_catalog and self.trie.items <= FLOOR_MASS_ITEMS:
            everything = self._reward.catalog(batch)  # [B, items]
            mass = self._log_reward(everything).softmax(-1)
            self._note({"reward/floor_mass": (mass * (everything < self.args.reward_floor)).sum(-1).mean()})
        return reward

    def flow_loss(self, model: nn.Module, step: Step, output: PathLogProbs) -> Tensor:
        inputs = self._flow_inputs(step, output)
        flow = self._objective.loss(inputs)
        log_pf = inputs.log_pf.detach().sum(-1)  # [B, K]
        pair = torch.stack([inputs.log_reward.flatten(), log_pf.flatten()])
        # every process must log the same names, so a step whose rewards are all equal counts as 0
        correlation = pair.corrcoef()[0, 1].nan_to_num()
        self._note({**flow.metrics, "flow/loss": flow.loss.mean(), "flow/reward_correlation": correlation})
        drawn = step.trajectories.source == SOURCES.index("policy")
        if drawn.any():
            gap = (step.trajectories.log_pf.sum(-1) - log_pf).abs()[drawn]
            self._note({"sampler/log_pf_gap": gap.mean()})
        return self.args.flow_weight * (flow.loss * flow.weight).sum() / step.prompts_in_step

    def _log_reward(self, reward: Tensor) -> Tensor:
        return log_reward(reward, self.args.reward_floor, self.args.reward_temperature)

    def get_batch_samples(self, *args: Any) -> tuple[list[Step], Tensor | None]:
        steps, total = super().get_batch_samples(*args)
        if steps and self._objective.learns_log_z and self.state.global_step == 0:
            self._start_log_z(steps)
        return steps, total

    def _start_log_z(self, steps: list[Step]) -> None:
        """Start the head at VarGrad's log Z, averaged over the whole first optimiser step."""
        total = torch.zeros((), device=self.args.device)
        with inference(self.model):
            for step in steps:
                log_pf = self.policy.log_probs(step.prompts, step.trajectories.items).log_pf
                total += (self._log_reward(step.reward) - log_pf.sum(-1)).mean(-1).sum() / steps[0].prompts_in_step
        start_at(self.model.flow_heads["log_z"], self.accelerator.reduce(total).item())

    def _flow_inputs(self, step: Step, output: PathLogProbs) -> FlowInputs:
        reward = self._log_reward(step.reward)
        if not self._objective.learns_log_z:
            return FlowInputs(output.log_pf, reward, step.trajectories.source)
        log_flow = torch.zeros(*reward.shape, output.log_pf.shape[-1] + 1, device=reward.device)
        log_flow[..., 0] = self.model.flow_heads["log_z"](output.state).unsqueeze(1)
        return FlowInputs(output.log_pf, reward, step.trajectories.source, log_flow)

    def get_optimizer_cls_and_kwargs(self, args: GFlowNetConfig, model: Any = None) -> tuple[Any, Any]:  # type: ignore[override]
        """transformers' optimiser, with a group of its own for the flow heads."""
        optimizer, kwargs = super().get_optimizer_cls_and_kwargs(args, model)
        named = [(n, p) for n, p in (model or self.model).named_parameters() if p.requires_grad]
        decayed = set(self.get_decay_parameter_names(model or self.model))
        policy = [(n, p) for n, p in named if not n.startswith(f"{NAME}.")]
        groups = [
            {"params": [p for n, p in policy if n in decayed], "weight_decay": args.weight_decay},
            {"params": [p for n, p in policy if n not in decayed], "weight_decay": 0.0},
            {
                "params": [p for n, p in named if n.startswith(f"{NAME}.")],
                "weight_decay": 0.0,
                "lr": args.flow_learning_rate,
            },
        ]
        return optimizer, kwargs | {"params": [group for group in groups if group["params"]]}
