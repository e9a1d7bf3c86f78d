"""Trajectories of the policy from an engine that holds a copy of its weights: vLLM in this process, or servers."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from catalog import Trajectories
from catalog.files import complete
from interactions.prompts import PromptBatch
from policy import ON_POLICY, Exploration, TriePolicy
from samplers.base import check_beams, generator, with_padding
from samplers.rollouts.engine import RolloutEngine
from samplers.rollouts.engine_policy import EnginePolicy


@dataclass(frozen=True)
class Drawn:
    """items [B, K], their log_pf [B, K, L], and the version of the weights that drew them."""

    items: Tensor
    log_pf: Tensor
    version: int


class RolloutSampler:
    """Independent draws from P_F by an engine, or with `beams` the best items of a beam: `PolicySampler` on vLLM.

    exploration: how the draws depart from P_F; their log-probabilities stay those of P_F.

    `start` draws in the background what a later `sample` with the same arguments returns. `Trajectories.age` says how
    many versions of the weights ago that was. `save` and `load` keep what was started and not yet returned.
    """

    def __init__(
        self, engine: RolloutEngine, policy: TriePolicy, beams: bool = False, exploration: Exploration = ON_POLICY
    ) -> None:
        check_beams(beams, exploration)
        self.engine, self.policy, self.beams, self.exploration = engine, policy, beams, exploration
        self._trie, self._device = policy.trie, policy.tokens.device
        self._reader = EnginePolicy(engine, policy.trie.to("cpu"), policy.tokens.cpu())
        self._background = ThreadPoolExecutor(1, thread_name_prefix="rollout", initializer=self._enter)
        self._started: dict[str, Future[Drawn]] = {}  # by `_name`

    def _enter(self) -> None:
        if self._device.type == "cuda":  # a thread begins on the first GPU, whichever one its process has
            torch.cuda.set_device(self._device)

    def start(self, batch: PromptBatch, count: int, seed: int) -> None:
        """Begin to draw, unless a draw with the same arguments is under way or was loaded."""
        if (name := self._name(batch, count, seed)) not in self._started:
            self._started[name] = self._background.submit(self._draw, batch, count, seed)

    def _name(self, batch: PromptBatch, count: int, seed: int) -> str:
        """Identifies a draw, so that a run resumed with other data or settings does not use those of a checkpoint."""
        drawn = batch.token_lists(), count, seed, self.beams, self.exploration
        return hashlib.sha256(repr(drawn).encode()).hexdigest()

    def wait(self) -> None:
        """Return when the engine is idle, since weights must not change while it draws."""
        for future in self._started.values():
            future.result()

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Raises RunError where the engine drew what is no item of the catalog."""
        started = self._started.pop(self._name(batch, count, seed), None)
        drawn = started.result() if started else self._draw(batch, count, seed)
        found = with_padding(drawn.items, batch, self._trie, "policy")
        age = torch.full_like(drawn.items, self.engine.version - drawn.version).masked_fill(drawn.items < 0, 0)
        return replace(found, log_pf=drawn.log_pf, age=age)

    def _draw(self, batch: PromptBatch, count: int, seed: int) -> Drawn:
        if self.beams:
            items, log_pf = self._best(batch, count)
        elif self.exploration != ON_POLICY:
            items, log_pf = self._reader.sample(batch, count, generator(seed, torch.device("cpu")), self.exploration)
        else:
            # children k of a prompt's request are seeded with its seed + k: far apart, so that none meet
            seeds = np.random.SeedSequence(seed).generate_state(len(batch), np.uint64) >> np.uint64(2)
            items, log_pf = self._reader.draw(batch, count, seeds.tolist())
        return Drawn(items.to(self._device), log_pf.to(self._device), self.engine.version)

    def _best(self, batch: PromptBatch, width: int) -> tuple[Tensor, Tensor]:
        """The best items of a beam: items [B, width], -1 behind the last, and log_pf [B, width, L]."""
        items, _ = self._reader.beam(batch, width)
        log_pf = self._reader.log_probs(batch, items.clamp(min=0)).log_pf
        return items, log_pf.masked_fill((items < 0).unsqueeze(-1), torch.nan)

    def forget(self) -> None:
        """Drop what was started, when training ends."""
        wait(self._started.values())
        self._started.clear()

    def save(self, path: Path) -> None:
        """Wait for what was started and write it to `path`, complete or not at all; failed draws are left out."""
        drawn = {name: future.result() for name, future in self._started.items() if not future.exception()}
        tensors = {f"{name}.items": one.items.cpu() for name, one in drawn.items()}
        tensors |= {f"{name}.log_pf": one.log_pf.cpu() for name, one in drawn.items()}
        with complete(path) as temporary:
            temporary.write_bytes(save(tensors, {name: str(one.version) for name, one in drawn.items()}))

    def load(self, path: Path) -> None:
        """Keep what `save` wrote for `sample`; nothing without such a file, which a run without prefetch lacks."""
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            for name, version in (file.metadata() or {}).items():
                items = file.get_tensor(f"{name}.items").to(self._device)
                log_pf = file.get_tensor(f"{name}.log_pf").to(self._device)
                ready: Future[Drawn] = Future()
                self._started[name] = ready
                ready.set_result(Drawn(items, log_pf, int(version)))
