"""Everything that a trainer is made of, from its config and from what it is given in Python."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from catalog import Catalog, Trajectories
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from policy.loading import load_backbone
from recommenders import BatchRecommender, load_recommender
from rewards import RewardParts, WeightedSum, build_rewards, named_rewards
from samplers import ReplaySampler, SamplerParts, build_mixture
from trainer.checks import check_count
from trainer.config import TrainingConfig
from trainer.front_door import as_rows
from trainer.given import Given
from trainer.methods.base import Method, MethodParts
from trainer.reporting.run_folder import RunFolder
from trainer.rollouts import Rollouts
from trainer.runtime.engine import make_engine
from trainer.scoring.reference import PrecomputedReference, Reference, cast_frozen, frozen_copy, numbered

if TYPE_CHECKING:
    from trainer.trainer import RecommenderTrainer

logger = logging.getLogger(__name__)

Rows: TypeAlias = Dataset | dict[str, Dataset] | None


def make_rows(args: TrainingConfig, given: Given, train: Any, evaluated: Any) -> tuple[Dataset | None, Rows]:
    """The training rows and those to evaluate on; checked. The first are numbered where something is kept of each, or
    looked up for a recommender."""
    rows = None if train is None else as_rows("train_dataset", train)
    if rows is not None and (args.numbers_rows or args.recommender or given.recommender is not None):
        rows = numbered(rows)
    if isinstance(evaluated, Mapping):
        return rows, {name: as_rows(f"eval_dataset[{name!r}]", part) for name, part in evaluated.items()}
    return rows, None if evaluated is None else as_rows("eval_dataset", evaluated)


def frozen_reference(
    args: TrainingConfig, model: PreTrainedModel, catalog: Catalog, given: Given, *, adapted: bool
) -> PreTrainedModel | None:
    """The model that is compared with, frozen; None where it is that in training without adapters, or a table."""
    if not args.reads_reference or args.precompute_ref_log_probs:
        return None
    if (reference := given.ref_model) is not None:
        if not isinstance(reference, PreTrainedModel):
            reference, _ = load_backbone(catalog, str(reference), None, args.seed)
        catalog.check_trained(reference.config)
        if reference.config.vocab_size != model.config.vocab_size:
            raise InputError(
                f"ref_model has {reference.config.vocab_size} tokens and the model {model.config.vocab_size}.",
                remedy="Give one with the same vocabulary.",
                field="ref_model",
            )
        return reference.eval().requires_grad_(False)
    return None if adapted else frozen_copy(model)


def find_recommender(args: TrainingConfig, given: Given, catalog: Catalog, train: Rows, evaluated: Rows) -> Any:
    """The recommender of the run, None without one. Raises InputError for one that was fitted on other rows."""
    if args.recommender_ahead and given.recommender is None and not args.recommender:
        raise InputError(
            "recommender_ahead: the run has no recommender.", remedy="Leave it out.", field="recommender_ahead"
        )
    if given.recommender is not None or not args.recommender:
        return given.recommender
    splits = {"train": train, "validation": None if isinstance(evaluated, dict) else evaluated}
    return load_recommender(
        args.recommender, catalog, {name: rows for name, rows in splits.items() if rows is not None}
    )


def make_callbacks(
    args: TrainingConfig, callbacks: list[TrainerCallback] | None
) -> tuple[list[TrainerCallback], RunFolder]:
    """The callbacks of a run, with early stopping where it is asked for, and the one that writes the run's folder."""
    callbacks = list(callbacks or [])
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    folder = next((callback for callback in callbacks if isinstance(callback, RunFolder)), RunFolder())
    return list(dict.fromkeys([*callbacks, folder])), folder


def make_rollouts(
    trainer: "RecommenderTrainer", tokenizer: PreTrainedTokenizerBase, given: Given, ask: BatchRecommender | None
) -> Rollouts:
    """The mixture of samplers that the config counts, and the engine behind `policy`."""
    args, catalog = trainer.args, trainer.catalog
    engine = make_engine(args, trainer.accelerator, trainer.model, trainer.prompts, tokenizer, catalog)
    parts = SamplerParts(
        trainer.trie,
        trainer.policy,
        ask,
        lambda: progress(trainer),
        catalog.fingerprint,
        engine,
        _draw_reward(trainer) if args.has_target else None,
    )
    mixture = build_mixture(args.mixture, parts, given.samplers or {})
    if args.trajectories not in (None, mixture.count):
        raise InputError(
            f"trajectories={args.trajectories}, but the counts of samplers={args.mixture} sum to {mixture.count}.",
            remedy="Make them agree.",
            field="trajectories",
            value=args.trajectories,
        )
    check_count(args, trainer.model, trainer.prompts, mixture.count, evaluates=trainer.eval_dataset is not None)
    rollouts = Rollouts(
        mixture,
        engine,
        trainer.policy,
        trainer.processes,
        trainer.metrics,
        prefetch=args.rollout_staleness > 0,
        exact=trainer.exact,
    )
    rows = trainer.train_dataset
    if rows is not None and "user" not in rows.column_names and rollouts.of_kind(ReplaySampler):
        raise InputError(
            "samplers: replay remembers by user, and train_dataset has no column user.",
            remedy="Add one.",
            field="samplers",
        )
    if mixture.count < args.fewest_trajectories:
        raise InputError(
            f"{type(trainer).__name__} with these settings needs {args.fewest_trajectories} trajectories per prompt; "
            f"samplers={args.mixture} give fewer."
        )
    return rollouts


def _draw_reward(trainer: "RecommenderTrainer") -> Any:
    """Draws from the target distribution of the method, which is made after its samplers."""

    def draw(batch: PromptBatch, count: int, generator: torch.Generator) -> torch.Tensor:
        method: Any = trainer.method
        return method.scorer.target.draw(batch, count, generator)

    return draw


def make_method(
    trainer: "RecommenderTrainer",
    tokenizer: PreTrainedTokenizerBase,
    given: Given,
    ask: BatchRecommender | None,
    frozen: PreTrainedModel | None,
) -> Method:
    """The method with its reward and its reference; it has scored some rows, so that what cannot work fails here."""
    args = trainer.args
    parts = MethodParts(
        catalog=trainer.catalog,
        trie=trainer.trie,
        policy=trainer.policy,
        prompts=trainer.prompts,
        reward=_make_reward(args, given, _reward_parts(trainer, tokenizer, ask)),
        reference=_make_reference(trainer, given, frozen) if args.reads_reference else None,
        progress=lambda: progress(trainer),
        training_prompts=trainer.rows.prompts_of,
    )
    method = args.make_method(parts)
    if trainer.train_dataset is not None and parts.reward is not None:
        batch = trainer.rows.prompts_of(range(8))
        items = torch.stack([batch.target, (batch.target + 1) % trainer.trie.items], 1)
        method.check(batch, Trajectories.from_items(items, trainer.trie.codes(items), "random"))
    return method


def _reward_parts(
    trainer: "RecommenderTrainer", tokenizer: PreTrainedTokenizerBase, ask: BatchRecommender | None
) -> RewardParts:
    named = trainer.args.named_items(len(trainer.catalog))
    return RewardParts(trainer.catalog, ask, trainer.policy, tokenizer, named)


def _make_reward(args: TrainingConfig, given: Given, parts: RewardParts) -> WeightedSum | None:
    if given.rewards:
        rewards = named_rewards(given.rewards, parts)
        weights = dict(zip(rewards, given.weights, strict=True))
        return WeightedSum(rewards, weights, parts.catalog, args.signed_rewards)
    if args.rewards or args.default_rewards:
        return build_rewards(args.rewards, parts, args.signed_rewards)
    return None


def _make_reference(
    trainer: "RecommenderTrainer", given: Given, frozen: PreTrainedModel | None
) -> Reference | PrecomputedReference:
    args, accelerator = trainer.args, trainer.accelerator
    if args.precompute_ref_log_probs:
        if trainer.train_dataset is None:
            raise InputError(
                "precompute_ref_log_probs is of training rows, and there is no train_dataset.",
                remedy="Give it, or leave the setting out.",
                field="train_dataset",
            )
        return PrecomputedReference(
            accelerator,
            trainer.policy,
            trainer.rows.prompts_of,
            len(trainer.train_dataset),
            args.per_device_eval_batch_size,
            progress_bar=not args.disable_tqdm,
        )
    if frozen is None:  # under LoRA the policy that training starts from is the model without its adapters
        adapted: Any = trainer.model
        return Reference(trainer.loss_policy(adapted), adapted.disable_adapter)
    if trainer.is_deepspeed_enabled:
        from trl.models.utils import prepare_deepspeed

        frozen = prepare_deepspeed(frozen, accelerator)
    elif frozen is not given.ref_model:  # a model that the caller made keeps its weights
        cast_frozen(frozen, accelerator)
    return Reference(trainer.loss_policy(frozen.to(args.device)), accelerator.autocast)


def progress(trainer: "RecommenderTrainer") -> float:
    """Share of the training that is done, 0 to 1."""
    return trainer.state.global_step / max(1, trainer.state.max_steps)


def say_kept(args: TrainingConfig, step: int) -> None:
    """Log that the steps done lie in a checkpoint."""
    kept = "is kept" if args.save_only_model else "resumes"
    logger.error("Stopped. %s/checkpoint-%d %s.", args.output_dir, step, kept)
