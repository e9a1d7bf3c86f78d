"""What trajectories are worth to a flow objective: the target distribution on them, kept where it never changes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from catalog import DENSE_ITEMS, Trajectories, Trie
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from recommenders.memory import memory_left
from rewards import WeightedSum
from trainer.checks import check_catalog_reward
from trainer.micro_batch import Scores
from trainer.reporting.metrics import trajectory_metrics
from trainer.scoring.history_flows import HistoryTarget
from trainer.scoring.target import KeptTarget, Target

if TYPE_CHECKING:
    from trainer.methods.base import MethodParts
    from trainer.methods.gflownet import GFlowNetConfig


NUMBERS_AN_ITEM = 16
"""Of sparse flows, for each item that is named: the nodes above it, and what is computed of them."""

BYTES_AN_ENTRY = 50
"""Peak memory of a step with dense rewards for each prompt and item."""


class TargetScorer:
    """Scores trajectories by the target distribution, and with flow_positions: all the items of the history too.

    exact: whether the objective reads exact flows. Raises InputError where the reward has none.
    """

    def __init__(self, args: "GFlowNetConfig", parts: "MethodParts", *, exact: bool) -> None:
        assert parts.reward is not None  # since GFlowNetConfig has default rewards
        self.reward: WeightedSum = parts.reward
        self.reward_items = args.named_items(parts.trie.items)
        self.target = _make_target(args, parts, self.reward, exact, self.reward_items)
        self._trie, self._catalog = parts.trie, parts.catalog
        kept, folder = parts.training_prompts if args.keep_flows else None, Path(args.output_dir)
        only_target = args.mixture == {"target": 1}
        self.kept_target = KeptTarget(self.target, kept, folder) if kept is not None and only_target else None
        self.history_target: HistoryTarget | None = None
        if args.flow_positions == "all":
            sparse = self.target.whole == "sparse"
            self.history_target = HistoryTarget(
                parts.prompts,
                self.target.flows,
                parts.trie,
                sparse=sparse,
                entries=NUMBERS_AN_ITEM * self.reward_items if sparse else parts.trie.items,
                prompts_of=kept,
                folder=folder,
            )

    def check(self, batch: PromptBatch, trajectories: Trajectories) -> None:
        """Raise InputError where the reward cannot score these, or not as it scores the whole catalog."""
        values = self.reward(batch, trajectories)
        if self.target.whole == "dense":
            of_trajectories = self.reward.catalog(batch).gather(1, trajectories.items)
            check_catalog_reward(values, of_trajectories, trajectories, self._catalog, "catalog")
        elif self.target.whole == "sparse":
            named, _ = self.reward.sparse(batch, self._trie)
            of_trajectories = named.value[named.of_items(trajectories.items)]  # [B, K]
            check_catalog_reward(values, of_trajectories, trajectories, self._catalog, "sparse")

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


def _make_target(
    args: "GFlowNetConfig", parts: "MethodParts", reward: WeightedSum, exact: bool, reward_items: int
) -> Target:
    draws = "reward" in args.mixture
    if (exact or draws) and not reward.scores_catalog:
        field = "objective" if exact else "samplers"
        raise InputError(
            f"{f'objective={args.objective}' if exact else 'samplers: reward'} needs the reward of the whole "
            f"catalog, and of {sorted(reward.rewards)} some score trajectories only.",
            remedy="Give each a method catalog(batch) -> [B, items] or sparse(batch) -> SparseReward, or use tb or "
            "vargrad.",
            field=field,
            value=getattr(args, field),
        )
    if args.reward_items and reward.scores_catalog:
        _check_sparse(args, reward)
    sparse = bool(reward_items) and reward.scores_catalog and not reward.dense_only and not args.reads_reference
    # every item's P_ref costs many forwards, that of the trajectories one
    read_off = parts.trie.items <= DENSE_ITEMS and not args.reads_reference
    dense = not sparse and reward.scores_catalog and (exact or draws or read_off)
    if dense:
        check_memory(args, parts.trie)
    return Target(
        reward,
        parts.trie,
        lambda name: args.at(name, parts.progress()),
        whole="sparse" if sparse else "dense" if dense else None,
        exact=exact,
        reference=parts.reference,  # type: ignore[arg-type]  # not precomputed, which GFlowNetConfig lacks
        reference_weight=args.reference_weight,
    )


def _check_sparse(args: "GFlowNetConfig", reward: WeightedSum) -> None:
    """Raise InputError where the target cannot be known by the items that the rewards name, as was asked for."""
    problem = ""
    if args.reads_reference:
        problem = "reference_weight multiplies the reward of every item by its probability"
    elif reward.dense_only:
        problem = f"reward {reward.dense_only[0]} has no method sparse(batch)"
    if problem:
        raise InputError(
            f"reward_items={args.reward_items}: {problem}.",
            remedy="Set reward_items: 0, which scores item by item"
            + (", or give the reward one that returns a SparseReward." if reward.dense_only else "."),
            field="reward_items",
            value=args.reward_items,
        )


def check_memory(args: "GFlowNetConfig", trie: Trie) -> None:
    """Raise InputError where the rewards of all items for a micro-batch do not fit into the memory that is left."""
    needed = BYTES_AN_ENTRY * args.per_device_train_batch_size * trie.items
    if needed > (left := memory_left(args.device)):
        raise InputError(
            f"Rewards item by item of {args.per_device_train_batch_size} prompts and {trie.items:,} items need about "
            f"{needed / 2**30:,.0f} GiB, and {left / 2**30:,.0f} GiB are left.",
            remedy="Set reward_items to name few items for each prompt (a reward of yours then has sparse(batch), see "
            "docs/reward.md), or lower per_device_train_batch_size.",
            field="reward_items",
            value=args.reward_items,
        )
