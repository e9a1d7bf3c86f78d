"""GFlowNet fine-tuning (GFlowGR, arXiv 2506.16114)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor, nn

from catalog import PADDING, SOURCES, Trajectories
from catalog.errors import InputError
from catalog.settings import at_least, check_known
from evaluation.match import MATCH_ITEMS, match_metrics
from evaluation.metric_help import MATCH, METRIC_HELP
from interactions.prompts import PromptBatch
from policy import PathLogProbs, inference
from rewards import WeightedSum
from trainer.checks import check_catalog_reward
from trainer.config import RolloutConfig
from trainer.flow_heads import NAME, FlowHead
from trainer.history_flows import HistoryTarget
from trainer.metrics import trajectory_metrics
from trainer.objective_trainer import ObjectiveTrainer
from trainer.objectives import OBJECTIVES, FlowInputs, Objective
from trainer.reference import numbered
from trainer.step import MicroBatch, PathFlows, Scores
from trainer.target import KeptTarget, Target


@dataclass
class GFlowNetConfig(RolloutConfig):
    """Arguments of `GFlowNetTrainer`: L = L_SFT + flow_weight * mean_k L_GFN(tau_k).

    The paper sums over k, so that its lambda of 1 with N = 3 is a flow_weight of 3.
    """

    default_rewards = {"hit": 1.0, "similarity": 1.0}
    signed_rewards = False  # a distribution is proportional to them

    objective: str = field(
        default="tb",
        metadata={
            "help": "Flow objective. With learned flows: 'tb', 'db', 'subtb'; without: 'vargrad'; with the exact flows "
            "of a reward that scores the whole catalogue: 'exact_tb', 'exact_db', 'flow_kl'."
        },
    )
    flow_weight: float = field(
        default=1.0,
        metadata={"help": "Lambda: weight of the flow loss, a mean over K trajectories, against L_SFT."},
    )
    flow_positions: Literal["target", "all"] = field(
        default="target",
        metadata={
            "help": "Where flows are matched: 'target', at the end of the prompt on its K trajectories; 'all', also "
            "after every item of the history on the path to the next one, in the same forward. 'all' needs an "
            "objective with exact flows."
        },
    )
    keep_flows: bool = field(
        default=False,
        metadata={
            "help": "Compute the flows along a row's history once and keep them for later epochs, in main memory: 4 "
            "bytes for each child on the paths, about 10 kB for 8 items of 4 codes of 256. So too those of the target "
            "where it is the only trajectory. Needs rewards that say the same of a row at any time."
        },
    )
    subtb_lambda: float = field(
        default=0.9, metadata={"help": "Of 'subtb': near 0 only single steps count, far above 1 only whole paths."}
    )
    residual_clip: float | None = field(
        default=None,
        metadata={"help": "Beyond this a flow residual counts linearly (Huber), so that its gradient is bounded."},
    )
    reference_weight: float = field(
        default=0.0,
        metadata={
            "help": "Relative trajectory balance: the target becomes R * P_ref ** reference_weight, P_ref the policy "
            "that training starts from."
        },
    )
    reward_floor: float = field(default=1e-3, metadata={"help": "Smallest reward before the log; must be > 0."})
    reward_floor_end: float | None = field(
        default=None, metadata={"help": "The floor at the end of training, reached geometrically."}
    )
    reward_temperature: float = field(
        default=1.0, metadata={"help": "Divides log R: below 1 sharpens the target distribution; must be > 0."}
    )
    reward_temperature_end: float | None = field(
        default=None, metadata={"help": "The temperature at the end of training, reached geometrically."}
    )
    flow_lr_multiplier: float = field(
        default=20.0,
        metadata={"help": "Learning rate of the flow heads over the policy's; far above 1, since they must follow it."},
    )
    match_rows: int = field(
        default=64,
        metadata={
            "help": "How many of eval_dataset's rows each evaluation compares exactly with R / Z, all items at once; 0 "
            "for none. Needs a reward that scores the catalogue, of at most 50,000 items."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = f"objective={self.objective!r} is not one of {sorted(OBJECTIVES)}."
        check_known(self.objective, OBJECTIVES, problem, field="objective")
        at_least(self, 0, "reward_floor", "reward_floor_end", "residual_clip", "subtb_lambda", strictly=True)
        at_least(self, 0, "reward_temperature", "reward_temperature_end", "flow_lr_multiplier", strictly=True)
        at_least(self, 0, "flow_weight", "reference_weight", "match_rows")
        if self.flow_positions == "all":
            self._check_history()
        if self.keep_flows:
            self._check_kept()
        if self.residual_clip is not None and "clip" not in OBJECTIVES[self.objective].options:
            raise InputError(
                f"residual_clip={self.residual_clip}: {self.objective} has no residual.",
                remedy="Leave it out.",
                field="residual_clip",
                value=self.residual_clip,
            )

    def _check_history(self) -> None:
        if OBJECTIVES[self.objective].flow != "exact":
            raise InputError(
                f"flow_positions: all needs exact flows, and {self.objective} has none.",
                remedy="Use flow_kl.",
                field="flow_positions",
            )
        if self.sft_positions != "all":
            raise InputError(
                "flow_positions: all reads the history as sft_positions: all does.",
                remedy="Set both or none.",
                field="flow_positions",
            )
        if self.reads_reference or "likelihood" in self.rewards:  # type: ignore[operator]  # a table by now
            raise InputError(
                "flow_positions: all would ask a policy for every item after every prefix of a history.",
                remedy="Leave out reference_weight and the reward likelihood, or set flow_positions: target.",
                field="flow_positions",
            )

    def _check_kept(self) -> None:
        changing = {"random_cut": self.random_cut, "flow_positions: target": self.flow_positions != "all"}
        changing |= {name: getattr(self, name) for name in ("reward_floor_end", "reward_temperature_end")}
        if found := [name for name, value in changing.items() if value]:
            raise InputError(
                "keep_flows keeps flows along whole histories that do not change.",
                remedy=f"Leave out {found[0]}.",
                field="keep_flows",
            )

    def loss(self) -> Objective:
        known = {"clip": self.residual_clip, "lambda_": self.subtb_lambda}
        objective = OBJECTIVES[self.objective]
        return partial(objective.loss, **{name: known[name] for name in objective.options})

    @property
    def eval_metrics(self) -> list[str]:
        match = [name for name, metric in METRIC_HELP.items() if metric.group == MATCH]
        return super().eval_metrics + (match if self.match_rows else [])

    @property
    def reads_reference(self) -> bool:
        return self.reference_weight > 0

    @property
    def fewest_trajectories(self) -> int:
        return OBJECTIVES[self.objective].trajectories

    def at(self, name: str, progress: float) -> float:
        """reward_floor or reward_temperature when `progress` in [0, 1] of the training is done."""
        start, end = getattr(self, name), getattr(self, f"{name}_end")
        return start if end is None else start * (end / start) ** progress


class GFlowNetTrainer(ObjectiveTrainer):
    """Teaches the policy to sample items in proportion to their reward: L = L_SFT + flow_weight * mean_k L_GFN(tau_k).

    The arguments are those of `ObjectiveTrainer`.
    """

    args: GFlowNetConfig

    def __init__(self, model: Any, args: GFlowNetConfig, **kwargs: Any) -> None:
        self._objective = OBJECTIVES[args.objective]
        self.reads_children = self._objective.children
        self.reads_history = args.flow_positions == "all"
        self._target: Target | None = None
        if args.keep_flows and kwargs.get("train_dataset") is not None:
            kwargs["train_dataset"] = numbered(kwargs["train_dataset"])
        super().__init__(model, args, **kwargs)
        kept = self._numbered_prompts if args.keep_flows else None
        self.history_target = HistoryTarget(self.prompts, lambda batch: self.target.flows(batch), self.trie, kept)
        self.kept_target = KeptTarget(self.target, kept) if kept and args.samplers == {"target": 1} else None

    @property
    def target(self) -> Target:
        """What the policy should be proportional to."""
        if self._target is None:
            self._target = self._make_target()
        return self._target

    def _make_target(self) -> Target:
        assert self.reward is not None  # since GFlowNetConfig has default rewards
        exact = self._objective.flow == "exact"
        if exact and not self.reward.scores_catalog:
            raise InputError(
                f"objective={self.args.objective} needs the reward of the whole catalogue, and of "
                f"{sorted(self.reward.rewards)} some score trajectories only.",
                remedy="Give each a method catalog(batch) -> [B, items], or use tb or vargrad.",
                field="objective",
                value=self.args.objective,
            )
        # every item's P_ref costs many forwards, that of the trajectories one
        read_off = self.trie.items <= MATCH_ITEMS and not self.args.reads_reference
        return Target(
            self.reward,
            self.trie,
            lambda name: self.args.at(name, self.progress),
            whole=self.reward.scores_catalog and (exact or read_off),
            exact=exact,
            reference=self.reference,  # type: ignore[arg-type]  # not precomputed, which GFlowNetConfig lacks
            reference_weight=self.args.reference_weight,
        )

    def attach(self, model: Any) -> None:
        if self._objective.flow in ("prompt", "nodes"):
            head = FlowHead(model.config.hidden_size, detached=self._objective.flow == "prompt")
            setattr(model, NAME, nn.ModuleDict({"log_flow": head}))

    def check_reward(self, reward: WeightedSum, batch: PromptBatch, trajectories: Trajectories) -> None:
        metric = self.args.metric_for_best_model
        if metric in METRIC_HELP and METRIC_HELP[metric].group == MATCH and not self._matches:
            raise InputError(
                f"metric_for_best_model={metric}: it needs a reward of the whole catalogue, and at most "
                f"{MATCH_ITEMS:,} items.",
                remedy="Use recall@10, or such a reward.",
                field="metric_for_best_model",
                value=metric,
            )
        values = reward(batch, trajectories)
        if self.target.whole:
            check_catalog_reward(values, reward.catalog(batch), trajectories, self.catalog)

    # rows, trajectories and what they are worth

    def _numbered_prompts(self, part: slice) -> PromptBatch:
        rows = self.train_dataset.select(range(*part.indices(len(self.train_dataset)))).to_list()
        return self.prompts(self.rows(rows, seed=0)).to(self.args.device)

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        scores, mass = self.kept_target.score(batch) if self.kept_target else self.target.score(batch, trajectories)
        if self.reads_history:
            scores = replace(scores, history=self.history_target(batch))
        share = {"reward/floor_share": self.target.floor_share(scores.reward, trajectories)}
        mass = {name: of_prompts.mean() for name, of_prompts in mass.items()}
        self._note(mass | trajectory_metrics(scores.reward, trajectories, self.trie) | share)
        return scores

    def log_pf_reference(self, step: MicroBatch) -> None:
        return None  # the reference is a part of the target

    # the loss

    def method_loss(self, model: nn.Module, step: MicroBatch, output: PathLogProbs) -> Tensor:
        loss = super().method_loss(model, step, output)
        if step.scores.history is not None:
            loss = loss + self._history_loss(step.scores.history, output) / step.num_targets
        return self.args.flow_weight * loss

    def _history_loss(self, flows: PathFlows, output: PathLogProbs) -> Tensor:
        """The objective's sum over the items of the histories, each a trajectory of its own."""
        assert output.log_pf_history is not None
        result = self._loss(
            FlowInputs(
                log_pf=output.log_pf_history,
                log_reward=flows.log_flow[..., -1],
                source=torch.where(flows.mask, SOURCES.index("target"), PADDING),
                log_flow=flows.log_flow,
                child_log_pf=output.child_log_pf_history,
                child_log_flow=flows.child_log_flow if self.reads_children else None,
            )
        )
        count = flows.mask.sum(-1)  # [B]
        total = (result.loss * count).sum()
        self._note({"objective/history_loss": total / count.sum().clamp(min=1)})
        return total

    def error(self, inputs: FlowInputs) -> Tensor:
        gap = inputs.log_pf.detach().sum(-1) - inputs.log_reward  # [B, K]
        return gap - inputs.mean(gap).unsqueeze(-1)

    def method_metrics(self, inputs: FlowInputs) -> Mapping[str, Tensor]:
        mask = inputs.source >= 0
        pair = torch.stack([inputs.log_reward[mask], inputs.log_pf.detach().sum(-1)[mask]])
        # every process must log the same names, so a step whose rewards are all equal counts as 0
        return {"flow/reward_correlation": pair.corrcoef()[0, 1].nan_to_num()}

    def inputs(self, step: MicroBatch, output: PathLogProbs) -> FlowInputs:
        inputs = super().inputs(step, output)
        if self._objective.flow is None:
            return inputs
        if self._objective.flow == "exact":
            return self._exact_inputs(inputs, step, output)
        model: Any = self.model
        head = model.flow_heads["log_flow"]
        if self._objective.flow == "prompt":
            flow = head(output.states[:, 0, 0])[:, None, None].expand(*output.log_pf.shape)
        else:
            flow = head(output.states)
        return replace(inputs, log_flow=torch.cat([flow, inputs.log_reward.unsqueeze(-1)], -1))

    def _exact_inputs(self, inputs: FlowInputs, step: MicroBatch, output: PathLogProbs) -> FlowInputs:
        """With the exact flows of the nodes on the paths and, where they are read, of all children of these."""
        flows = step.scores.flows
        assert flows is not None
        inputs = replace(inputs, log_flow=flows.log_flow)
        if not self.reads_children:
            return inputs
        return replace(inputs, child_log_pf=output.child_log_pf, child_log_flow=flows.child_log_flow)

    def get_batch_samples(self, *args: Any) -> tuple[list[MicroBatch], Tensor | None]:
        steps, total = super().get_batch_samples(*args)
        if steps and self._objective.flow in ("prompt", "nodes") and self.state.global_step == 0:
            self._start_flows(steps)
        return steps, total

    def _start_flows(self, steps: list[MicroBatch]) -> None:
        """Start the head at VarGrad's log Z, averaged over the whole first optimizer step."""
        total = torch.zeros((), device=self.args.device)
        with inference(self.model):
            for step in steps:
                log_pf = self.policy.log_probs(step.prompts, step.trajectories.items).log_pf
                mask = step.trajectories.source >= 0
                gap = (step.scores.log_reward - log_pf.sum(-1)).where(mask, 0.0)
                total += (gap.sum(-1) / mask.sum(-1)).sum() / steps[0].num_prompts
        model: Any = self.model
        model.flow_heads["log_flow"].start_at(self.accelerator.reduce(total).item())

    # how far the policy is from the reward, exactly

    @property
    def _matches(self) -> bool:
        """Whether an evaluation compares P_F and R / Z over the whole catalogue."""
        assert self.reward is not None
        return bool(self.reward.scores_catalog and self.args.match_rows and self.trie.items <= MATCH_ITEMS)

    def held_out_metrics(self, rows: Dataset) -> dict[str, float]:
        """Total variation, KL and more between P_F and R / Z over the whole catalogue, on the first match_rows rows."""
        if not self._matches:
            return {}
        table = rows.select(range(min(self.args.match_rows, len(rows)))).to_list()
        parts = []
        for start in range(0, len(table), self.args.per_device_eval_batch_size):
            batch = self.prompts(table[start : start + self.args.per_device_eval_batch_size]).to(self.args.device)
            parts.append(match_metrics(self.policy.distribution(batch), self.target.catalog(batch), self.trie))
        return {name: torch.cat([part[name] for part in parts]).mean().item() for name in parts[0]}

    def get_optimizer_cls_and_kwargs(self, args: GFlowNetConfig, model: Any = None) -> tuple[Any, Any]:  # type: ignore[override]
        """transformers' optimizer, with a group of its own for the flow heads."""
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
