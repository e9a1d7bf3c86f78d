"""One micro-batch of an optimizer step, and which of its items are trained as targets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from catalog import PADDING, SOURCES, Trajectories
from catalog.errors import DivergedError
from catalog.files import write_json
from interactions.prompts import PromptBatch
from policy import PathLogProbs
from trainer.objectives import FlowInputs


@dataclass(frozen=True)
class PathFlows:
    """The exact flows on paths of the trie: those of K trajectories or, then K = N, those to the items of a history.

    log_flow [B, K, L + 1] of the nodes on the path, child_log_flow [B, K, L, C] of all children of those that a step
    leaves, -inf behind the last child; both where `mask` [B, K], elsewhere any finite number.
    """

    log_flow: Tensor
    child_log_flow: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Scores:
    """What trajectories are worth: reward [B, K] >= 0; log_reward [B, K], what a flow objective matches.

    Where items share a leaf and the reward scores the catalog, log_reward is that of the leaf, the sum of its items.

    flows are those of the trajectories, None where the objective does not ask for exact ones; so is history, the flows
    on the path to each item of the history, after the items before it. The first has nothing before it: it is not real.
    metrics: detached scalars to log.
    """

    reward: Tensor
    log_reward: Tensor
    flows: PathFlows | None = None
    history: PathFlows | None = None
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PendingStep:
    """The micro-batches of one optimizer step, read and seeded before anything is drawn for them.

    num_targets: items trained as targets; tokens: of the prompts, without padding. Both are of all micro-batches, and
    counted before the prompts lie on a GPU, which a count there would wait for.
    """

    prompts: list[PromptBatch]
    seeds: list[int]
    num_targets: int
    tokens: int

    @classmethod
    def from_prompts(
        cls, prompts: list[PromptBatch], seeds: list[int], positions: str, device: torch.device
    ) -> "PendingStep":
        """Of prompts on the CPU, which are moved to `device`; positions: see `target_source`."""
        return cls(
            [part.to(device) for part in prompts],
            seeds,
            sum(int((target_source(part, positions) >= 0).sum()) for part in prompts),
            sum(int(part.attention_mask.sum()) for part in prompts),
        )

    def counts(self, branches: int) -> tuple[int, int, int]:
        """Targets, prompts and tokens that a forward reads, with `branches` codes behind each prompt."""
        prompts = sum(map(len, self.prompts))
        return self.num_targets, prompts, self.tokens + prompts * branches


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch: prompts, their trajectories and what these are worth.

    reference [B, K, L] is log P_F of the trajectories under the reference policy, None where no objective reads it.
    num_targets, num_prompts: how many target items and prompts the whole optimizer step holds, over its micro-batches
    and processes; what a mean over the step divides by. last: whether the optimizer steps after it.
    """

    prompts: PromptBatch
    trajectories: Trajectories
    scores: Scores
    num_targets: float
    num_prompts: float
    reference: Tensor | None = None
    last: bool = True

    def __len__(self) -> int:
        return len(self.prompts)


def target_source(prompts: PromptBatch, positions: str) -> Tensor:
    """Which of [history, target] are trained as targets: source [B, N + 1] for "all" positions, [B, 1] for "target".

    The first item of a row has nothing before it but the start token, so it is context and never a target.
    """
    target = SOURCES.index("target")
    last = torch.full_like(prompts.target, target).unsqueeze(1)
    if positions == "target":
        return last
    return torch.cat([torch.where(after_another(prompts.history), target, PADDING), last], 1)


def target_inputs(micro_batch: MicroBatch, log_probs: PathLogProbs, positions: str) -> FlowInputs:
    """The items whose likelihood is raised, as trajectories: with "all", those of the history, and the target."""
    log_pf = log_probs.log_pf[:, :1]
    if positions == "all":
        assert log_probs.log_pf_history is not None
        log_pf = torch.cat([log_probs.log_pf_history, log_pf], 1)  # [B, N + 1, L]
    source = target_source(micro_batch.prompts, positions)
    return FlowInputs(log_pf=log_pf, log_reward=torch.zeros_like(log_pf[..., 0]), source=source)


def after_another(history: Tensor) -> Tensor:
    """Which items of histories [B, N], -1 for padding, have one before them: [B, N] bool."""
    return (history >= 0) & ((history >= 0).cumsum(1) > 1)


class LossCheck:
    """Whether the losses of an optimizer step are numbers, looked at once a step, since to look waits for a GPU.

    folder: where what gave none is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._step = -1
        self._seen: list[tuple[MicroBatch, Tensor, Tensor]] = []

    def see(self, micro_batch: MicroBatch, log_pf: Tensor, loss: Tensor, step: int) -> None:
        """Note the loss of a micro-batch with log_pf [B, K, L]; at the last one of the step look at all.

        Raises DivergedError for a loss that is no number, after its micro-batch is in the folder. The weights are still
        those before the step.
        """
        if step != self._step:  # what a step that failed has left
            self._step, self._seen = step, []
        self._seen.append((micro_batch, log_pf.detach(), loss.detach()))
        if micro_batch.last:
            seen, self._seen = self._seen, []
            finite = torch.stack([one.isfinite() for _, _, one in seen]).tolist()
            if not all(finite):
                self._refuse(*seen[finite.index(False)])

    def _refuse(self, micro_batch: MicroBatch, log_pf: Tensor, loss: Tensor) -> None:
        path = self._folder / f"failed_batch_{os.environ.get('RANK', 0)}.json"
        prompts, trajectories, scores = micro_batch.prompts, micro_batch.trajectories, micro_batch.scores
        tensors = {
            "history": prompts.history,
            "target": prompts.target,
            "items": trajectories.items,
            "source": trajectories.source,
            "reward": scores.reward,
            "log_reward": scores.log_reward,
            "log_pf": log_pf,
        }
        about = {"step": self._step, "loss": str(loss.item()), "users": prompts.users, "sources": SOURCES}
        write_json(path, about | {name: tensor.tolist() for name, tensor in tensors.items()})
        raise DivergedError(
            f"The loss is {loss.item()} at step {self._step}; the prompts and trajectories are in {path}.",
            remedy="Lower the learning rate or the reward's range.",
            file=path,
        )
