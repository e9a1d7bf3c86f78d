"""What trajectories are worth to a flow objective: the target distribution on them, kept where it never changes."""

from dataclasses import replace
from typing import TYPE_CHECKING

from catalog import Trajectories
from catalog.errors import InputError
from evaluation.match import MATCH_ITEMS
from interactions.prompts import PromptBatch
from rewards import WeightedSum
from trainer.checks import check_catalog_reward
from trainer.micro_batch import Scores
from trainer.reporting.metrics import trajectory_metrics
from trainer.scoring.history_flows import HistoryTarget
from trainer.scoring.target import KeptTarget, Target

if TYPE_CHECKING:
    from trainer.methods.base import MethodParts
    from trainer.methods.gflownet import GFlowNetConfig


class TargetScorer:
    """Scores trajectories by the target distribution, and with flow_positions: all the items of the history too.

    exact: whether the objective reads exact flows. Raises InputError where the reward has none.
    """

    def __init__(self, args: "GFlowNetConfig", parts: "MethodParts", *, exact: bool) -> None:
        assert parts.reward is not None  # since GFlowNetConfig has default rewards
        self.reward: WeightedSum = parts.reward
        self.target = _make_target(args, parts, self.reward, exact)
        self._trie, self._catalog = parts.trie, parts.catalog
        kept = parts.training_prompts if args.keep_flows else None
        only_target = args.mixture == {"target": 1}
        self.kept_target = KeptTarget(self.target, kept) if kept is not None and only_target else None
        self.history_target: HistoryTarget | None = None
        if args.flow_positions == "all":
            self.history_target = HistoryTarget(parts.prompts, self.target.flows, parts.trie, kept)

    def check(self, batch: PromptBatch, trajectories: Trajectories) -> None:
        """Raise InputError where the reward cannot score these, or not as it scores the whole catalogue."""
        values = self.reward(batch, trajectories)
        if self.target.whole:
            check_catalog_reward(values, self.reward.catalog(batch), trajectories, self._catalog)

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        if self.kept_target is None:
            scores, mass = self.target.score(batch, trajectories)
        else:
            scores, mass = self.kept_target.score(batch)
        history = None if self.history_target is None else self.history_target(batch)
        metrics = {name: of_prompts.mean() for name, of_prompts in mass.items()}
        metrics |= trajectory_metrics(scores.reward, trajectories, self._trie)
        metrics["reward/floor_share"] = self.target.floor_share(scores.reward, trajectories)
        return replace(scores, history=history, metrics=metrics)


def _make_target(args: "GFlowNetConfig", parts: "MethodParts", reward: WeightedSum, exact: bool) -> Target:
    if exact and not reward.scores_catalog:
        raise InputError(
            f"objective={args.objective} needs the reward of the whole catalogue, and of {sorted(reward.rewards)} some "
            "score trajectories only.",
            remedy="Give each a method catalog(batch) -> [B, items], or use tb or vargrad.",
            field="objective",
            value=args.objective,
        )
    # every item's P_ref costs many forwards, that of the trajectories one
    read_off = parts.trie.items <= MATCH_ITEMS and not args.reads_reference
    return Target(
        reward,
        parts.trie,
        lambda name: args.at(name, parts.progress()),
        whole=reward.scores_catalog and (exact or read_off),
        exact=exact,
        reference=parts.reference,  # type: ignore[arg-type]  # not precomputed, which GFlowNetConfig lacks
        reference_weight=args.reference_weight,
    )
