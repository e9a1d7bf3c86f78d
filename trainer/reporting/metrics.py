"""Every metric of ours that a run logs, explained. Names with a slash are ours; the others are transformers'."""

from collections.abc import Iterable

import torch
from torch import Tensor

from catalog import Trajectories, Trie

METRICS = {
    "sft/loss": "mean negative log-probability of a target item, in nats per item",
    "flow/divergence": "divergence from the exact child flows to P_F along a path, in nats (flow_kl); 0 at balance",
    "objective/loss": "mean loss of the method's own objective a prompt, before it is weighted by flow_weight",
    "objective/history_loss": "the same of an item of the history (flow_positions: all)",
    "flow/residual_rms": "root mean square of what is squared, such as log Z + log P_F - log R (tb); 0 at balance",
    "flow/log_z": "mean log Z(u), learned, exact, or the best for the trajectories at hand (vargrad)",
    "flow/reward_correlation": "correlation of log R and log P_F over a step; 1 at balance, 0 if all rewards are equal",
    "rewards/chosen": "mean implicit reward of the target, beta (log P_F - log P_ref); nats (dpo, sdpo)",
    "rewards/rejected": "mean implicit reward of a negative, nats (dpo, sdpo)",
    "rewards/margins": "mean of chosen - rejected over the pairs, nats (dpo, sdpo)",
    "rewards/accuracies": "share of the pairs whose margin is above 0 (dpo, sdpo)",
    "reward_std": "mean standard deviation of the reward within a prompt's trajectories (grpo)",
    "frac_reward_zero_std": "share of prompts whose trajectories all have the same reward, and teach nothing (grpo)",
    "clip_ratio/region_mean": "share of the steps whose ratio to the older policy is clipped (grpo)",
    "kl": "mean of the estimate of KL(P_F || P_ref) a step, nats (grpo with beta > 0)",
    "reward/mean": "mean reward of a trajectory, before the floor",
    "reward/target_mass": "share of the catalog's whole reward, after floor and temperature, on the target",
    "reward/floor_mass": "share on items below the floor, the target left out",
    "reward/rest_mass": "share on all other items; the three sum to 1",
    "reward/cut_mass": "share of a reward's mass beyond reward_items, which counts as nothing; of the worst term",
    "reward/floor_share": "share of trajectories whose reward is below the floor",
    "sampler/valid_share": "share of trajectories that are a semantic ID of the catalog",
    "sampler/distinct_share": "share of a prompt's trajectories that are distinct items",
    "sampler/padding_share": "share of slots without a trajectory: an empty replay buffer, a short log",
    "sampler/log_pf_gap": "mean |log P_F of sampler - of trainer| of four prompts' policy trajectories; rounding, age",
    "sampler/log_pf_gap_max": "the largest of these differences",
    "sampler/log_pf_gap_share": "share of them above 0.01",
    "sampler/age": "optimizer steps since the weights that drew the policy's trajectories, see rollout_staleness",
    "time/sync_ms": "milliseconds to hand the policy's weights to the rollout engine (use_vllm)",
    "time/wait_ms": "milliseconds that the trainer waited for rollouts begun earlier (rollout_staleness)",
    "time/rollout_share": "share of the step's seconds spent on sampling and rewards",
    "time/prompts_per_second": "prompts trained on per second on this process, sampling included",
}


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for a metric of ours that nobody explained."""
    if unknown := sorted({name for name in names if "/" in name} - set(METRICS)):
        raise ValueError(
            f"Metrics without an explanation: {unknown}. Add them to METRICS in trainer/reporting/metrics.py."
        )


def trajectory_metrics(reward: Tensor, trajectories: Trajectories, trie: Trie) -> dict[str, Tensor]:
    """Of the trajectories that count: reward [B, K], and how many are valid, distinct and missing."""
    mask = trajectories.source >= 0  # [B, K]
    leaves = trie.leaf(trajectories.codes)
    apart = -1 - torch.arange(mask.shape[1], device=mask.device)  # a number of its own for each empty slot
    repeats = (leaves.where(mask, apart).sort(-1).values.diff() == 0).sum()
    count = mask.sum()
    return {
        "reward/mean": reward.where(mask, 0.0).sum() / count,
        "sampler/valid_share": ((leaves >= 0) & mask).sum() / count,
        "sampler/distinct_share": 1 - repeats / count,
        "sampler/padding_share": 1 - mask.float().mean(),
    }
