"""GFlowNet fine-tuning (GFlowGR, arXiv 2506.16114)."""

import copy
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from catalog import SOURCES, Catalog, Trajectories
from evaluation.match import MATCH_ITEMS, match_metrics
from interactions.prompts import PromptBatch
from policy import CausalPolicy, PathLogProbs, inference
from rewards import Reward, RewardParts, WeightedSum, build_rewards
from samplers import ReplaySampler
from trainer.checks import check_catalog_reward
from trainer.config import GFlowNetConfig
from trainer.flow_heads import NAME, FlowHead
from trainer.objectives import OBJECTIVES, FlowInputs
from trainer.rollout_trainer import RolloutTrainer
from trainer.step import Scores, Step
from trainer.target import Target


class GFlowNetTrainer(RolloutTrainer):
    """Teaches the policy to sample items in proportion to their reward: L = L_SFT + flow_weight * mean_k L_GFN(tau_k).

    rewards: a reward that replaces those named in `args.rewards`. samplers: samplers by name, beside or instead of the
    stock ones; `args.samplers` says how many trajectories each gives. The target comes first among the trajectories,
    and `args.samplers` must ask for it. recommender: a collaborative model that replaces the one in `args.recommender`.
    """

    args: GFlowNetConfig

    def __init__(
        self,
        model: Any,
        args: GFlowNetConfig,
        *,
        catalog: Catalog,
        rewards: Reward | None = None,
        **kwargs: Any,
    ) -> None:
        assert isinstance(args.rewards, dict) and isinstance(args.source_weights, dict)  # by GFlowNetConfig
        self._objective = OBJECTIVES[args.objective]
        options = {"clip": args.residual_clip, "lambda_": args.subtb_lambda}
        self._loss = partial(self._objective.loss, **{name: options[name] for name in self._objective.options})
        self.reads_children = self._objective.children
        self._source_weight = torch.tensor([args.source_weights.get(name, 1.0) for name in SOURCES])
        if args.reference_weight and any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            raise ValueError(
                "reference_weight: ZeRO-3 has sharded the model, and shards cannot be copied. Use ZeRO-2, or set "
                "zero3_init_flag: false in the launch recipe."
            )
        reference = copy.deepcopy(model).eval().requires_grad_(False) if args.reference_weight else None
        super().__init__(model, args, catalog=catalog, **kwargs)
        if self._mixture.count < self._objective.trajectories:
            raise ValueError(
                f"{args.objective} needs {self._objective.trajectories} trajectories per prompt; "
                f"samplers={args.samplers} give fewer."
            )
        parts = RewardParts(catalog, self._teacher, self.policy)
        reward = WeightedSum({"reward": rewards}, catalog=catalog) if rewards else build_rewards(args.rewards, parts)
        exact = self._objective.flow == "exact"
        if exact and not reward.scores_catalog:
            raise ValueError(
                f"objective={args.objective} needs the reward of the whole catalogue, and of {sorted(reward.rewards)} "
                "some score trajectories only. Give each a method catalog(batch) -> [B, items], or use tb or vargrad."
            )
        whole = reward.scores_catalog and (exact or catalog.trie.items <= MATCH_ITEMS)
        self.target = Target(
            reward,
            self.trie,
            lambda name: args.at(name, self.progress),
            whole=whole,
            exact=exact,
            reference=reference and CausalPolicy(reference.to(args.device), self.trie, self.tokens),
            reference_weight=args.reference_weight,
        )
        if self.train_dataset is not None:
            self._check_reward()

    def attach(self, model: Any) -> None:
        if self._objective.flow in ("prompt", "nodes"):
            head = FlowHead(model.config.hidden_size, detached=self._objective.flow == "prompt")
            setattr(model, NAME, nn.ModuleDict({"log_flow": head}))

    def _check_reward(self) -> None:
        """Score a target and another item of some rows, so that a reward that cannot work fails before training."""
        rows = self.train_dataset.select(range(min(8, len(self.train_dataset)))).to_list()
        batch = self.prompts(self.rows(rows, seed=0)).to(self.args.device)
        items = torch.stack([batch.target, (batch.target + 1) % self.trie.items], 1)
        trajectories = Trajectories.of_items(items, self.trie.codes(items), "random")
        reward = self.target.reward(batch, trajectories)
        if self.target.whole:
            check_catalog_reward(reward, self.target.reward.catalog(batch), trajectories, self.catalog)

    # rows, trajectories and what they are worth

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        scores, mass = self.target.score(batch, trajectories)
        self._note(mass | self.target.trajectory_metrics(scores.reward, trajectories))
        return scores

    # the loss

    def flow_loss(self, model: nn.Module, step: Step, output: PathLogProbs) -> Tensor:
        inputs = self._flow_inputs(step, output)
        flow = self._loss(inputs)
        log_pf, real = inputs.log_pf.detach().sum(-1), inputs.source >= 0  # [B, K]
        gap = log_pf - inputs.log_reward
        pair = torch.stack([inputs.log_reward[real], log_pf[real]])
        # every process must log the same names, so a step whose rewards are all equal counts as 0
        correlation = pair.corrcoef()[0, 1].nan_to_num()
        self._note({**flow.metrics, "flow/loss": flow.loss.mean(), "flow/reward_correlation": correlation})
        for sampler in self._of(ReplaySampler).values():
            sampler.update(step.prompts, step.trajectories, step.scores.reward, gap - inputs.mean(gap).unsqueeze(-1))
        return self.args.flow_weight * (flow.loss * flow.weight).sum() / step.prompts_in_step

    def _flow_inputs(self, step: Step, output: PathLogProbs) -> FlowInputs:
        source, reward = step.trajectories.source, step.scores.log_reward
        weight = self._source_weight.to(source.device)[source.clamp(min=0)]
        if self._objective.flow is None:
            return FlowInputs(output.log_pf, reward, source, weight=weight)
        if self._objective.flow == "exact":
            return self._exact_inputs(step, output, weight)
        head = self.model.flow_heads["log_flow"]
        if self._objective.flow == "prompt":
            flow = head(output.states[:, 0, 0])[:, None, None].expand(*output.log_pf.shape)
        else:
            flow = head(output.states)
        return FlowInputs(output.log_pf, reward, source, torch.cat([flow, reward.unsqueeze(-1)], -1), weight)

    def _exact_inputs(self, step: Step, output: PathLogProbs, weight: Tensor) -> FlowInputs:
        """With the exact flows of the nodes on the paths and, where they are read, of all children of these."""
        assert step.scores.log_flow is not None
        path = self.trie.path(step.trajectories.items)  # [B, K, L + 1]
        flow = _at(step.scores.log_flow, path)
        children = None
        if self.reads_children:
            child = self.trie.children(path[..., :-1], max(self.trie.max_children))  # [B, K, L, C]
            children = _at(step.scores.log_flow, child.clamp(min=0)).masked_fill(child < 0, -torch.inf)
        return FlowInputs(
            output.log_pf, step.scores.log_reward, step.trajectories.source, flow, weight, output.child_log_pf, children
        )

    def get_batch_samples(self, *args: Any) -> tuple[list[Step], Tensor | None]:
        steps, total = super().get_batch_samples(*args)
        if steps and self._objective.flow in ("prompt", "nodes") and self.state.global_step == 0:
            self._start_flows(steps)
        return steps, total

    def _start_flows(self, steps: list[Step]) -> None:
        """Start the head at VarGrad's log Z, averaged over the whole first optimiser step."""
        total = torch.zeros((), device=self.args.device)
        with inference(self.model):
            for step in steps:
                log_pf = self.policy.log_probs(step.prompts, step.trajectories.items).log_pf
                real = step.trajectories.source >= 0
                gap = (step.scores.log_reward - log_pf.sum(-1)).where(real, 0.0)
                total += (gap.sum(-1) / real.sum(-1)).sum() / steps[0].prompts_in_step
        self.model.flow_heads["log_flow"].start_at(self.accelerator.reduce(total).item())

    # how far the policy is from the reward, exactly

    def held_out_metrics(self, rows: Dataset) -> dict[str, float]:
        """Total variation, KL and more between P_F and R / Z over the whole catalogue, on the first match_rows rows."""
        if not (self.target.whole and self.args.match_rows and self.trie.items <= MATCH_ITEMS):
            return {}
        table = rows.select(range(min(self.args.match_rows, len(rows)))).to_list()
        parts = []
        for start in range(0, len(table), self.args.per_device_eval_batch_size):
            batch = self.prompts(table[start : start + self.args.per_device_eval_batch_size]).to(self.args.device)
            parts.append(match_metrics(self.policy.distribution(batch), self.target.catalog(batch), self.trie))
        return {name: torch.cat([part[name] for part in parts]).mean().item() for name in parts[0]}

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
                "lr": args.learning_rate * args.flow_lr_multiplier,
            },
        ]
        return optimizer, kwargs | {"params": [group for group in groups if group["params"]]}


def _at(values: Tensor, nodes: Tensor) -> Tensor:
    """values [B, nodes] at nodes [B, ...]: [B, ...]."""
    return values.gather(1, nodes.flatten(1)).view_as(nodes)
