"""Where a run's trajectories come from: its mixture of samplers, and the engine behind the sampler `policy`."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from catalog import SOURCES, Trajectories
from interactions.prompts import PromptBatch
from policy import TriePolicy, inference
from samplers import Mixture, ReplaySampler, RolloutEngine, RolloutSampler
from samplers.rollouts.weights import PolicySource
from trainer.checks import check_rollouts
from trainer.micro_batch import MicroBatch, PendingStep
from trainer.reporting.step_metrics import StepMetrics
from trainer.runtime.processes import Processes
from trainer.scoring.flow_heads import NAME

logger = logging.getLogger(__name__)

GAP_PROMPTS = 4
"""Of how many prompts a step compares the log-probabilities of sampler and trainer."""


class Rollouts:
    """Draws trajectories with the current weights, or with `prefetch` those of steps to come with older ones.

    mixture: which trajectories each prompt gets; engine: what draws from the policy, None for the policy itself; exact:
    whether the policy computes in float32.
    """

    def __init__(
        self,
        mixture: Mixture,
        engine: RolloutEngine | None,
        policy: TriePolicy,
        processes: Processes,
        metrics: StepMetrics,
        *,
        prefetch: bool,
        exact: bool,
    ) -> None:
        self.mixture, self.engine = mixture, engine
        self._policy, self._processes, self._metrics = policy, processes, metrics
        self._prefetch, self._exact = prefetch, exact
        self.gap: float | None = None  # set by the check of the first weights that the engine is given
        self._trained: list[tuple[MicroBatch, Tensor]] = []  # what replay does not remember yet

    def of_kind(self, kind: type) -> dict[str, Any]:
        """The samplers of one kind that the mixture uses, by name."""
        return {name: sampler for name, sampler in self.mixture.samplers.items() if isinstance(sampler, kind)}

    def forget(self) -> None:
        """Drop what an earlier run had drawn ahead of its last step."""
        for sampler in self.of_kind(RolloutSampler).values():
            sampler.forget()

    def sync(self, model: nn.Module, version: int, new: Sequence[PendingStep]) -> None:
        """Hand the engine the current weights, and with `prefetch` let it begin what was read just now.

        version: the optimizer step whose weights they are. Every process calls it, after all of them have drawn.
        """
        if self.engine is None:
            return
        if self._prefetch:  # a server must not change while another process still draws
            started = time.perf_counter()
            with self._processes.attempt():
                for sampler in self.of_kind(RolloutSampler).values():
                    sampler.wait()
            self._processes.agree(f"the rollouts of step {version}")
            self._metrics.note({"time/wait_ms": 1000 * (time.perf_counter() - started)})
        started = time.perf_counter()
        self._load(self.engine, model, version)
        self._metrics.note({"time/sync_ms": 1000 * (time.perf_counter() - started)})
        if self.gap is None:
            with self._processes.attempt():
                sampler = RolloutSampler(self.engine, self._policy)
                exact = self._exact and self.engine.dtype == torch.float32
                self.gap = check_rollouts(self._policy, sampler, new[0].prompts[0], exact)
            self._processes.agree("the check of the rollout engine")
            self._load(self.engine, model, version)  # empties the cache: a resumed run must find what this one found
        if self._prefetch:
            for step in new:
                for batch, seed in zip(step.prompts, step.seeds, strict=True):
                    self.mixture.start(batch, seed)

    def _load(self, engine: RolloutEngine, model: nn.Module, version: int) -> None:
        with self._processes.attempt():
            engine.load(PolicySource(model, skip=(NAME,), dtype=engine.dtype), version)
        self._processes.agree(f"the weights of step {version}")
        with self._processes.attempt():
            engine.confirm_weights()
        self._processes.agree(f"the weights of step {version}")

    def draw(self, batch: PromptBatch, seed: int) -> Trajectories:
        """K trajectories for each prompt."""
        self._remember()
        return self.mixture.sample(batch, seed)

    def sleep(self) -> None:
        """Nothing is drawn until the next `sync`."""
        if self.engine is not None and not self._prefetch:
            self.engine.sleep()

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()

    def note_gap(self, model: nn.Module, micro_batch: MicroBatch) -> None:
        """How far the sampler's log-probabilities are from the policy's; of few prompts, since it is a forward more."""
        prompts = micro_batch.prompts.rows(0, GAP_PROMPTS)
        trajectories = micro_batch.trajectories.rows(0, GAP_PROMPTS)
        drawn = trajectories.source == SOURCES.index("policy")  # [B, K]
        if not drawn.any():
            return
        with inference(model):  # the losses' own forward has dropout, which would hide everything else
            log_pf = self._policy.log_probs(prompts, trajectories.items).log_pf.sum(-1)
        gap = (trajectories.log_pf.sum(-1) - log_pf).abs()[drawn]
        self._metrics.note(
            {
                "sampler/log_pf_gap": gap.mean(),
                "sampler/log_pf_gap_max": gap.max(),
                "sampler/log_pf_gap_share": (gap > 0.01).float().mean(),
                "sampler/age": trajectories.age[drawn].float().mean(),
            }
        )

    def update_replay(self, micro_batch: MicroBatch, error: Tensor) -> None:
        """Let the replay buffers remember what was trained; error [B, K]: see `MethodLoss.replay_error`.

        They do so before anything is drawn or saved again: in the loss they would wait for a GPU.
        """
        if self.of_kind(ReplaySampler):
            self._trained.append((micro_batch, error.detach()))

    def _remember(self) -> None:
        trained, self._trained = self._trained, []
        for micro_batch, error in trained:
            reward = micro_batch.scores.reward.clamp(min=0)
            for sampler in self.of_kind(ReplaySampler).values():
                sampler.update(micro_batch.prompts, micro_batch.trajectories, reward, error)

    # what a checkpoint holds of the samplers

    @property
    def _stateful(self) -> dict[str, Any]:
        ahead = self.of_kind(RolloutSampler) if self._prefetch else {}
        return self.of_kind(ReplaySampler) | ahead

    def save(self, folder: Path, process: int) -> None:
        self._remember()
        for name, sampler in self._stateful.items():
            sampler.save(folder / f"{name}_{process}.safetensors")

    def load(self, folder: Path, process: int, *, same_processes: bool) -> None:
        """What `save` wrote; nothing where it was written by another number of processes."""
        self._trained = []
        if self._stateful and not same_processes:
            logger.warning("Other processes than before: what %s remembered starts empty.", [*self._stateful])
            return
        for name, sampler in self._stateful.items():
            sampler.load(folder / f"{name}_{process}.safetensors")
