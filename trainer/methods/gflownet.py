"""GFlowNet fine-tuning (GFlowGR, arXiv 2506.16114)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from datasets import Dataset
from torch import Tensor, nn

from catalog import DENSE_ITEMS, PADDING, SOURCES, Trajectories
from catalog.errors import InputError
from catalog.settings import at_least, check_known
from evaluation.match import MATCH_ITEMS, match_metrics
from evaluation.metric_help import MATCH, METRIC_HELP
from interactions.prompts import PromptBatch
from policy import PathLogProbs, inference
from trainer.methods.base import MethodLoss, MethodParts, flow_inputs
from trainer.micro_batch import MicroBatch, PathFlows, Scores
from trainer.objectives import OBJECTIVES, FlowInputs, Objective
from trainer.rollout_config import RolloutConfig
from trainer.runtime.best_model import bare_metric
from trainer.scoring.scorer import TargetScorer

REWARD_ITEMS = 200
"""What reward_items is by default where the catalog is large."""


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
            "of a reward that scores the whole catalog: 'exact_tb', 'exact_db', 'flow_kl'."
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
            "help": "Compute the flows along a row's history once and keep them for later epochs, in a memory-mapped "
            "file in output_dir: 4 bytes for each child on the paths, with reward_items 8 for each that differs from "
            "the others. So too those of the target where it is the only trajectory. Needs rewards that say the same "
            "of a row at any time. A row then stays with one process."
        },
    )
    reward_items: int | None = field(
        default=None,
        metadata={
            "help": "How many items of a prompt have rewards of their own, a recommender's best and what other rewards "
            "name; all others share one, and no step touches the whole catalog. 0 scores every item. By default 0 "
            "up to 50,000 items, and 200 beyond."
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
            "for none. Needs a reward that scores the catalog, of at most 50,000 items."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = f"objective={self.objective!r} is not one of {sorted(OBJECTIVES)}."
        check_known(self.objective, OBJECTIVES, problem, field="objective")
        at_least(self, 0, "reward_floor", "reward_floor_end", "residual_clip", "subtb_lambda", strictly=True)
        at_least(self, 0, "reward_temperature", "reward_temperature_end", "flow_lr_multiplier", strictly=True)
        at_least(self, 0, "flow_weight", "reference_weight", "match_rows", "reward_items")
        if self.flow_positions == "all":
            self._check_history()
        if self.keep_flows:
            self._check_kept()
        if self.residual_clip is not None and "residual_clip" not in OBJECTIVES[self.objective].options.values():
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

    def make_objective(self) -> Objective:
        objective = OBJECTIVES[self.objective]
        return partial(objective.loss, **{name: getattr(self, setting) for name, setting in objective.options.items()})

    @property
    def eval_metrics(self) -> list[str]:
        match = [name for name, metric in METRIC_HELP.items() if metric.group == MATCH]
        return super().eval_metrics + (match if self.match_rows else [])

    def make_method(self, parts: MethodParts) -> "GFlowNet":
        return GFlowNet(self, parts)

    @property
    def numbers_rows(self) -> bool:
        return self.keep_flows

    keeps_rows = numbers_rows

    @property
    def has_target(self) -> bool:
        return True

    def named_items(self, items: int) -> int:
        """How many items of a prompt have rewards of their own in a catalog of `items`, 0 where all have.

        Raises InputError where there are not so many.
        """
        if self.reward_items is None:
            return 0 if items <= DENSE_ITEMS else REWARD_ITEMS
        if self.reward_items > items:
            raise InputError(
                f"reward_items={self.reward_items}: the catalog has {items} items.",
                remedy="Lower it, or set 0 to score all of them.",
                field="reward_items",
                value=self.reward_items,
            )
        return self.reward_items

    @property
    def flow_head(self) -> str | None:
        flow = OBJECTIVES[self.objective].flow
        return flow if flow in ("prompt", "nodes") else None

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


class GFlowNet:
    """Matches the policy's flow to the reward: flow_weight * mean_k L_GFN(tau_k), on the history's items too if asked.

    scorer: what trajectories are worth. The reference, if any, is a part of the target.
    """

    def __init__(self, args: GFlowNetConfig, parts: MethodParts) -> None:
        self._flow_objective = OBJECTIVES[args.objective]
        self.objective = args.make_objective()
        self.reads_children = self._flow_objective.children
        self.reads_history = args.flow_positions == "all"
        self.scorer = TargetScorer(args, parts, exact=self._flow_objective.flow == "exact")
        self._args, self._parts = args, parts

    def check(self, batch: PromptBatch, trajectories: Trajectories) -> None:
        metric = bare_metric(self._args.metric_for_best_model or "", self._args.eval_metrics)
        if metric in METRIC_HELP and METRIC_HELP[metric].group == MATCH and not self._matches:
            raise InputError(
                f"metric_for_best_model={metric}: it needs a reward of the whole catalog, and at most "
                f"{MATCH_ITEMS:,} items.",
                remedy="Use a metric of the ranking, or such a reward.",
                field="metric_for_best_model",
                value=metric,
            )
        self.scorer.check(batch, trajectories)

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        return self.scorer.score(batch, trajectories)

    def reference_log_probs(self, batch: PromptBatch, trajectories: Trajectories) -> None:
        return None  # it is a part of the target

    def start(
        self, micro_batches: list[MicroBatch], heads: nn.ModuleDict | None, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Learned flows begin at VarGrad's log Z, averaged over the whole first optimizer step."""
        if heads is None:
            return
        policy = self._parts.policy
        total = torch.zeros((), device=policy.tokens.device)
        with inference(policy.model):
            for micro_batch in micro_batches:
                log_pf = policy.log_probs(micro_batch.prompts, micro_batch.trajectories.items).log_pf
                mask = micro_batch.trajectories.source >= 0
                gap = (micro_batch.scores.log_reward - log_pf.sum(-1)).where(mask, 0.0)
                total += (gap.sum(-1) / mask.sum(-1)).sum() / micro_batch.num_prompts
        heads["log_flow"].start_at(reduce(total).item())  # type: ignore[operator]

    def loss(self, micro_batch: MicroBatch, log_probs: PathLogProbs, heads: nn.ModuleDict | None) -> MethodLoss:
        inputs = self.inputs(micro_batch, log_probs, heads)
        result = self.objective(inputs)
        loss = (result.loss * result.weight).sum() / micro_batch.num_prompts
        metrics = {**result.metrics, "objective/loss": result.loss.detach().mean(), **_correlation(inputs)}
        if micro_batch.scores.history is not None:
            total, count = self.history_loss(micro_batch.scores.history, log_probs)
            metrics["objective/history_loss"] = (total / count.clamp(min=1)).detach()
            loss = loss + total / micro_batch.num_targets
        gap = inputs.log_pf.detach().sum(-1) - inputs.log_reward  # [B, K]
        return MethodLoss(self._args.flow_weight * loss, metrics, gap - inputs.mean(gap).unsqueeze(-1))

    def inputs(self, micro_batch: MicroBatch, log_probs: PathLogProbs, heads: nn.ModuleDict | None) -> FlowInputs:
        """What the objective is given: flows that are learned, exact, or none."""
        inputs = flow_inputs(micro_batch, log_probs, self._parts.trie, self._args.source_weights)  # type: ignore[arg-type]
        if self._flow_objective.flow is None:
            return inputs
        if self._flow_objective.flow == "exact":
            flows = micro_batch.scores.flows
            assert flows is not None
            inputs = replace(inputs, log_flow=flows.log_flow)
            if not self.reads_children:
                return inputs
            return replace(inputs, child_log_pf=log_probs.child_log_pf, child_log_flow=flows.child_log_flow)
        assert heads is not None
        head = heads["log_flow"]
        if self._flow_objective.flow == "prompt":
            flow = head(log_probs.states[:, 0, 0])[:, None, None].expand(*log_probs.log_pf.shape)
        else:
            flow = head(log_probs.states)
        return replace(inputs, log_flow=torch.cat([flow, inputs.log_reward.unsqueeze(-1)], -1))

    def history_loss(self, flows: PathFlows, log_probs: PathLogProbs) -> tuple[Tensor, Tensor]:
        """The objective's sum over the items of the histories, each a trajectory of its own, and their number."""
        assert log_probs.log_pf_history is not None
        result = self.objective(
            FlowInputs(
                log_pf=log_probs.log_pf_history,
                log_reward=flows.log_flow[..., -1],
                source=torch.where(flows.mask, SOURCES.index("target"), PADDING),
                log_flow=flows.log_flow,
                child_log_pf=log_probs.child_log_pf_history,
                child_log_flow=flows.child_log_flow if self.reads_children else None,
            )
        )
        count = flows.mask.sum(-1)  # [B]
        return (result.loss * count).sum(), count.sum()

    # how far the policy is from the reward, exactly

    @property
    def _matches(self) -> bool:
        """Whether an evaluation compares P_F and R / Z over the whole catalog."""
        return bool(
            self.scorer.reward.scores_catalog and self._args.match_rows and self._parts.trie.items <= MATCH_ITEMS
        )

    def held_out_metrics(self, rows: Dataset, batch_size: int) -> dict[str, float]:
        """Total variation, KL and more between P_F and R / Z over the whole catalog, on the first match_rows rows."""
        if not self._matches:
            return {}
        policy, target = self._parts.policy, self.scorer.target
        table = rows.select(range(min(self._args.match_rows, len(rows)))).to_list()
        parts = []
        for start in range(0, len(table), batch_size):
            batch = self._parts.prompts(table[start : start + batch_size]).to(policy.tokens.device)
            parts.append(match_metrics(policy.distribution(batch), target.catalog(batch), policy.trie))
        return {name: torch.cat([part[name] for part in parts]).mean().item() for name in parts[0]}


def _correlation(inputs: FlowInputs) -> dict[str, Tensor]:
    """Of log R and log P_F over the trajectories of a micro-batch."""
    mask = inputs.source >= 0
    pair = torch.stack([inputs.log_reward[mask], inputs.log_pf.detach().sum(-1)[mask]])
    # every process must log the same names, so a step whose rewards are all equal counts as 0
    return {"flow/reward_correlation": pair.corrcoef()[0, 1].nan_to_num()}
