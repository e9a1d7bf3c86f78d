"""The trainer under every method that draws trajectories: the mixture of samplers, and the engine behind `policy`."""

import logging
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from catalog import SOURCES, Catalog
from catalog.errors import InputError
from policy import inference
from recommenders import BatchRecommender, Recommender, load_recommender
from samplers import Mixture, ReplaySampler, RolloutEngine, RolloutSampler, Sampler, SamplerParts, build_mixture
from samplers.rollouts.weights import policy_weights
from trainer.checks import check_rollouts
from trainer.config import RolloutConfig
from trainer.engine import make_engine
from trainer.flow_heads import NAME
from trainer.front_door import as_rows
from trainer.provenance import import_path
from trainer.step import MicroBatch, PendingStep
from trainer.trajectory_trainer import TrajectoryTrainer

logger = logging.getLogger(__name__)

GAP_PROMPTS = 4
"""Of how many prompts a step compares the log-probabilities of sampler and trainer."""


class RolloutTrainer(TrajectoryTrainer):
    """Draws K trajectories per prompt from the samplers that `args.samplers` counts, the target first.

    samplers: samplers by name, beside or instead of the stock ones. recommender: a recommender that replaces
    the one in `args.recommender`, which must be fitted on exactly these data sets.
    """

    args: RolloutConfig

    def __init__(
        self,
        model: Any,
        args: RolloutConfig,
        *,
        catalog: Catalog,
        samplers: Mapping[str, Sampler] | None = None,
        recommender: Recommender | None = None,
        **kwargs: Any,
    ) -> None:
        assert isinstance(args.samplers, dict)  # by RolloutConfig
        if args.needs_target or args.sft_weight or "target" in args.samplers:
            if args.samplers.get("target") != 1:
                raise InputError(
                    f"samplers={args.samplers}: target: 1 is missing, the trajectory that the SFT term or the "
                    "objective learns.",
                    field="samplers",
                    value=args.samplers,
                )
            args.samplers = {"target": 1} | args.samplers  # in front, whatever the order of the recipe
        self.sft_weight = args.sft_weight
        if args.use_vllm and not args.samplers.get("policy"):
            raise InputError(
                f"use_vllm: none of samplers={args.samplers} is policy, which vLLM draws.",
                remedy="Leave it out.",
                field="use_vllm",
            )
        self._python_parts: dict[str, Any] = {}
        if samplers:
            self._python_parts["samplers"] = {name: import_path(sampler) for name, sampler in samplers.items()}
        if recommender is not None:
            self._python_parts["recommender"] = import_path(recommender)
        if recommender is None and args.recommender:
            given = {"train": kwargs.get("train_dataset"), "validation": kwargs.get("eval_dataset")}
            rows = {split: as_rows(split, some) for split, some in given.items() if some is not None}
            recommender = load_recommender(args.recommender, catalog, rows)
        self.prefetch = args.rollout_staleness
        self._own_samplers = dict(samplers or {})
        self._recommender = None if recommender is None else BatchRecommender(recommender)
        self.rollout_gap: float | None = None  # set by the check of the first weights that the engine is given
        super().__init__(model, args, catalog=catalog, **kwargs)
        if self.train_dataset is not None and "user" not in self.train_dataset.column_names and self._of(ReplaySampler):
            raise InputError(
                "samplers: replay remembers by user, and train_dataset has no column user.",
                remedy="Add one.",
                field="samplers",
            )

    @property
    def python_parts(self) -> dict[str, Any]:
        return self._python_parts

    @cached_property
    def engine(self) -> RolloutEngine | None:
        """What draws from the policy, None for the policy itself."""
        return make_engine(self.args, self.accelerator, self.model, self.prompts, self.processing_class, self.catalog)

    @cached_property
    def _mixture(self) -> Mixture:
        parts = SamplerParts(
            self.trie, self.policy, self._recommender, lambda: self.progress, self.catalog.fingerprint, self.engine
        )
        mixture = build_mixture(self.args.samplers, parts, self._own_samplers)  # type: ignore[arg-type]
        if self.args.trajectories not in (None, mixture.count):
            raise InputError(
                f"trajectories={self.args.trajectories}, but the counts of samplers={self.args.samplers} sum to "
                f"{mixture.count}.",
                remedy="Make them agree.",
                field="trajectories",
                value=self.args.trajectories,
            )
        return mixture

    def mixture(self) -> Mixture:
        return self._mixture

    def _of(self, kind: type) -> dict[str, Any]:
        """The samplers of one kind that the mixture uses, by name."""
        return {name: s for name, s in self._mixture.samplers.items() if isinstance(s, kind)}

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return self.state.global_step / max(1, self.state.max_steps)

    @cached_property
    def _user_items(self) -> dict[Any, list[int]]:
        """Every training item of each user, so that a recommender can leave a user's own sequence out."""
        own: dict[Any, set[int]] = {}
        for row in self.train_dataset.select_columns(["user", "history", "target"]):
            own.setdefault(row["user"], set()).update(row["history"], (row["target"],))
        return {user: sorted(items) for user, items in own.items()}

    def rows(self, rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
        rows = super().rows(rows, seed)
        if self._recommender is None or "user" not in rows[0]:
            return rows
        return [row | {"user_items": self._user_items[row["user"]]} for row in rows]

    # the engine and its weights

    def train(self, *args: Any, **kwargs: Any) -> Any:
        for sampler in self._of(RolloutSampler).values():
            sampler.forget()  # what an earlier call had drawn ahead of its last step
        return super().train(*args, **kwargs)

    def prepare(self, plans: list[PendingStep]) -> None:
        """Hand the engine the current weights, and with `rollout_staleness` let it begin what was read just now."""
        if self.engine is None:
            return
        started = time.perf_counter()
        with self.fail_together():  # a server must not change while another process still draws
            for sampler in self._of(RolloutSampler).values():
                sampler.wait()
        self._note({"time/wait_ms": 1000 * (time.perf_counter() - started)})
        started = time.perf_counter()
        self._load()
        self._note({"time/sync_ms": 1000 * (time.perf_counter() - started)})
        if self.rollout_gap is None:
            sampler = RolloutSampler(self.engine, self.policy)
            exact = self.exact and self.engine.exact
            with self.fail_together():
                self.rollout_gap = check_rollouts(self.policy, sampler, plans[0].prompts[0], exact)
            self._load()  # empties the cache again: a resumed run must find what the uninterrupted one found
        if self.prefetch:
            for plan in plans:
                for batch, seed in zip(plan.prompts, plan.seeds, strict=True):
                    self._mixture.start(batch, seed)

    def end_training(self) -> None:
        if self.engine is not None:
            self.engine.close()
        super().end_training()

    def _load(self) -> None:
        assert self.engine is not None
        with self.fail_together():
            self.engine.load(policy_weights(self.model, skip=(NAME,)), self.state.global_step)
        with self.fail_together():
            self.engine.confirm_weights()

    def get_batch_samples(self, *args: Any) -> tuple[list[MicroBatch], torch.Tensor | None]:
        steps, total = super().get_batch_samples(*args)
        if self.engine is not None and not self.prefetch:
            self.engine.sleep()
        if steps:
            self._note_gap(steps[0])
        return steps, total

    def _note_gap(self, step: MicroBatch) -> None:
        """How far the sampler's log-probabilities are from the policy's; of few prompts, since it is a forward more."""
        prompts, trajectories = step.prompts.rows(0, GAP_PROMPTS), step.trajectories.rows(0, GAP_PROMPTS)
        drawn = trajectories.source == SOURCES.index("policy")  # [B, K]
        if drawn.any():
            with inference(self.model):  # the losses' own forward has dropout, which would hide everything else
                log_pf = self.policy.log_probs(prompts, trajectories.items).log_pf.sum(-1)
            gap = (trajectories.log_pf.sum(-1) - log_pf).abs()[drawn]
            self._note(
                {
                    "sampler/log_pf_gap": gap.mean(),
                    "sampler/log_pf_gap_max": gap.max(),
                    "sampler/log_pf_gap_share": (gap > 0.01).float().mean(),
                    "sampler/age": trajectories.age[drawn].float().mean(),
                }
            )

    # what a checkpoint holds of the samplers

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        for name, sampler in self._stateful.items():
            sampler.save(Path(output_dir) / f"{name}_{self.args.process_index}.safetensors")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # the random streams come later, after the first rollouts
        if checkpoint and self._stateful and not self._same_processes:
            logger.warning("Other processes than before: what %s remembered is not dealt anew.", [*self._stateful])
            return
        for name, sampler in self._stateful.items() if checkpoint else ():
            sampler.load(Path(checkpoint) / f"{name}_{self.args.process_index}.safetensors")  # type: ignore[arg-type]

    @property
    def _stateful(self) -> dict[str, Any]:
        return self._of(ReplaySampler) | (self._of(RolloutSampler) if self.prefetch else {})
