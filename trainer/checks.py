"""What is refused before the first step, in one sentence with the remedy."""

import logging
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset
from torch import Tensor, nn

from catalog import Catalog, Trajectories
from catalog.errors import InputError
from interactions import rows as rows_of
from interactions.prompts import PromptBatch, PromptBuilder
from policy import Agreement, TriePolicy, check_backbone, check_shared_prefix, inference
from samplers import RolloutSampler
from trainer.config import TrainingConfig
from trainer.micro_batch import MicroBatch

logger = logging.getLogger(__name__)


def computes_float32(model: nn.Module, accelerator: Accelerator) -> bool:
    """Whether the model computes in float32, so that what two forwards differ in is rounding of that."""
    return next(model.parameters()).dtype == torch.float32 and accelerator.mixed_precision == "no"


def check_vocabulary(model: nn.Module, tokens: int) -> None:
    """Raise InputError where the tokenizer has tokens that the model has no embedding for."""
    embeddings = model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    if embeddings < tokens:
        raise InputError(
            f"The model has {embeddings} token embeddings and the tokenizer {tokens} tokens.",
            remedy="Call model.resize_token_embeddings(len(tokenizer)) first.",
        )


def check_run(
    args: TrainingConfig, model: Any, prompts: PromptBuilder, train: Dataset | None, evaluated: Any, tokens: int
) -> None:
    """Refuse what cannot work before the first step. tokens: those of the tokenizer."""
    check_vocabulary(model, tokens)
    if model.config.is_encoder_decoder and args.sft_positions == "all":
        raise InputError(
            "sft_positions: all needs a decoder-only backbone: an encoder reads a history as a whole and predicts none "
            "of its items.",
            remedy="Set sft_positions: target, and random_cut: true to train on shorter histories too.",
            field="sft_positions",
        )
    named = {"eval_dataset": evaluated}
    if isinstance(evaluated, Mapping):
        named = {f"eval_dataset[{name!r}]": rows for name, rows in evaluated.items()}
    for rows in named.values():
        warn_of_sample(rows, args.eval_users)
    for name, rows in {"train_dataset": train, **named}.items():
        if rows is not None:
            check_rows(name, rows, prompts.trie.items, args.world_size)
    if train is not None:
        warn_of_long_histories(train, args.max_history)


def check_count(args: TrainingConfig, model: Any, prompts: PromptBuilder, count: int, *, evaluates: bool) -> None:
    """Raise InputError where the catalog or the backbone has no place for `count` trajectories of a prompt."""
    if count > prompts.trie.leaves:
        raise InputError(
            f"{count} trajectories per prompt of {prompts.trie.leaves} semantic IDs in all.", remedy="Lower K."
        )
    beams = args.beam_width if evaluates else 0
    check_backbone(model.config, prompts.longest, max(2, count, beams), prompts.trie.levels - 1)


def check_rows(name: str, rows: Dataset, items: int, processes: int) -> None:
    """Raise InputError for fewer rows than processes, and as `interactions.rows.check_rows` does."""
    if len(rows) < processes:
        raise InputError(
            f"{name}: {len(rows)} rows for {processes} processes.", remedy="Start fewer processes.", field=name
        )
    rows_of.check_rows(name, rows, items)


def warn_of_long_histories(rows: Dataset, max_history: int) -> None:
    """Training rows longer than the prompt lose their older items."""
    lengths = pc.list_value_length(rows.select_columns("history").with_format("arrow")[:]["history"])
    if (longest := pc.max(lengths).as_py()) > max_history:
        logger.warning(
            "train_dataset has histories of up to %d items and max_history is %d: older items are not trained.",
            longest,
            max_history,
        )


def warn_of_sample(rows: Dataset | None, eval_users: int | None) -> None:
    """Evaluations that rank some of the rows say so once, on the main process."""
    if rows is not None and eval_users is not None and eval_users < len(rows) and PartialState().is_main_process:
        logger.warning(
            "Evaluations during training rank the same %d of the %d rows of eval_dataset each time (eval_users).",
            eval_users,
            len(rows),
        )


def check_forward(policy: TriePolicy, step: MicroBatch, exact: bool) -> float:
    """Compare the shared-prefix forward with the naive one on the first prompt; see `check_shared_prefix`.

    exact: whether the model computes in float32.
    """
    return check_shared_prefix(policy, step.prompts.rows(0, 1), step.trajectories.items[:1], exact=exact)


def check_rollouts(policy: TriePolicy, sampler: RolloutSampler, batch: PromptBatch, exact: bool) -> float:
    """Let the engine draw for the first prompts and compare its log-probabilities with the policy's.

    exact: whether both compute in float32.
    Returns the largest difference of a step; raises InputError where it is more than rounding, see `Agreement`: the
    engine then has other weights, or another vocabulary, than the policy.
    """
    first = batch.rows(0, 4)
    drawn = sampler.sample(first, 2, seed=0)
    with inference(policy.model):
        log_pf = policy.log_probs(first, drawn.items).log_pf
    agreement = Agreement.of(drawn.log_pf, log_pf)
    if problem := agreement.problem(exact):
        raise InputError(
            f"The rollout engine's log-probabilities differ from the policy's {problem}: it computes another model.",
            remedy="Use a backbone that vLLM supports, or sample with transformers (use_vllm: false).",
        )
    return agreement.largest


def check_catalog_reward(
    reward: Tensor, by_catalog: Tensor, trajectories: Trajectories, catalog: Catalog, method: str
) -> None:
    """Raise InputError where rewards [B, K] and what `catalog` or `sparse` says of them [B, K] disagree."""
    gap = (reward - by_catalog).abs()  # [B, K]
    if len(bad := (gap > 1e-4 * reward.abs().clamp(min=1)).nonzero()):
        row, column = bad[0].tolist()
        item = int(trajectories.items[row, column])
        raise InputError(
            f"The reward of item {catalog.item_ids[item]!r} is {reward[row, column]:.4g} as a trajectory and "
            f"{by_catalog[row, column]:.4g} in {method}(batch).",
            remedy="Make the two agree.",
        )
