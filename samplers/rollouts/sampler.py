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
from torch.nn.functional import pad

from catalog import Trajectories, code_of_token
from catalog.errors import DivergedError, RunError
from catalog.files import complete
from interactions.prompts import PromptBatch
from policy import TriePolicy
from samplers.base import with_padding
from samplers.rollouts.engine import RolloutEngine


@dataclass(frozen=True)
class Drawn:
    """items [B, K], their log_pf [B, K, L], and the version of the weights that drew them."""

    items: Tensor
    log_pf: Tensor
    version: int


class RolloutSampler:
    """Independent draws from P_F by an engine, or with `beams` the best items of a beam: `PolicySampler` on vLLM.

    `start` draws in the background what a later `sample` of the same returns; `Trajectories.age` says how many
    versions of the weights ago that was. Everything that was started and not yet taken is in `save` and `load`.
    """

    def __init__(self, engine: RolloutEngine, policy: TriePolicy, beams: bool = False) -> None:
        self.engine, self.policy, self.beams = engine, policy, beams
        self._trie, self._device = policy.trie, policy.tokens.device
        self._background = ThreadPoolExecutor(1, thread_name_prefix="rollout", initializer=self._enter)
        self._started: dict[str, Future[Drawn]] = {}  # by `_name`
        self._code = code_of_token(policy.tokens, policy.trie, int(policy.tokens.max()) + 1)

    def _enter(self) -> None:
        if self._device.type == "cuda":  # a thread begins on the first GPU, whichever one its process has
            torch.cuda.set_device(self._device)

    def start(self, batch: PromptBatch, count: int, seed: int) -> None:
        """Begin to draw; what was drawn for the same before, in a run that is resumed, is kept."""
        prompts = _token_lists(batch)
        if (name := self._name(prompts, count, seed)) not in self._started:
            self._started[name] = self._background.submit(self._draw, prompts, count, seed)

    def _name(self, prompts: list[list[int]], count: int, seed: int) -> str:
        """Of a draw: a run that is resumed with other data or settings must not take up what was drawn for others."""
        return hashlib.sha256(repr((prompts, count, seed, self.beams)).encode()).hexdigest()

    def wait(self) -> None:
        """Return when the engine is idle, since weights must not change while it draws."""
        for future in self._started.values():
            future.result()

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Raises RunError where the engine drew what is no item of the catalogue."""
        prompts = _token_lists(batch)
        started = self._started.pop(self._name(prompts, count, seed), None)
        drawn = started.result() if started else self._draw(prompts, count, seed)
        found = with_padding(drawn.items, batch, self._trie, "policy")
        age = torch.full_like(drawn.items, self.engine.version - drawn.version).masked_fill(drawn.items < 0, 0)
        return replace(found, log_pf=drawn.log_pf, age=age)

    def _draw(self, prompts: list[list[int]], count: int, seed: int) -> Drawn:
        if self.beams:
            items, log_pf = self._best(prompts, count)
        else:
            # children k of a prompt's request are seeded with its seed + k: far apart, so that none meet
            seeds = np.random.SeedSequence(seed).generate_state(len(prompts), np.uint64) >> np.uint64(2)
            tokens, log_pf = self.engine.sample(prompts, count, seeds.tolist())
            _check_numbers(log_pf)
            items = self._items(tokens)
        return Drawn(items.to(self._device), log_pf.to(self._device), self.engine.version)

    def _items(self, tokens: Tensor) -> Tensor:
        """The items of token sequences [..., L]: [...]."""
        known = tokens.clamp(max=len(self._code) - 1).to(self._device)
        leaf = self._trie.leaf(self._code[known])
        item = self._trie.item(leaf.clamp(min=self._trie.level_start[-2]))  # any, for what leads nowhere
        right = (self.policy.tokens[self._trie.path(item)[..., 1:]].cpu() == tokens).all(-1)
        if not right.all():
            raise RunError(
                f"The rollout engine drew the tokens {tokens[~right][0].tolist()}, which are no item of the catalogue.",
                remedy="Start it with this run's catalogue and vocabulary.",
            )
        return item

    def _best(self, prompts: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
        """The best items of a beam: items [B, width], -1 behind the last, and log_pf [B, width, L]."""
        score = torch.zeros(len(prompts), 1)
        tokens, log_pf = torch.zeros(len(prompts), 1, 0, dtype=torch.long), torch.zeros(len(prompts), 1, 0)
        for level, most in enumerate(self._trie.max_children):
            fan = min(width, most)
            row, slot = (score > -torch.inf).nonzero(as_tuple=True)
            begun = [prompts[r] + tokens[r, s].tolist() for r, s in zip(row.tolist(), slot.tolist(), strict=True)]
            step = torch.full((*score.shape, fan), -torch.inf)  # [B, W, fan]
            token = torch.zeros_like(step, dtype=torch.long)
            codes, each = self.engine.extend(begun, level, fan)
            _check_numbers(each.amax(-1))  # every node has a child
            token[row, slot], step[row, slot] = codes, each
            total, best = (score.unsqueeze(-1) + step).flatten(1).topk(min(width, step[0].numel()))
            score, parent = total, (best // fan).unsqueeze(-1)
            tokens = _grown(tokens, parent, token.flatten(1).gather(1, best))
            log_pf = _grown(log_pf, parent, step.flatten(1).gather(1, best))
        found = score > -torch.inf
        items = torch.full(score.shape, -1)
        items[found] = self._items(tokens[found]).cpu()
        missing = width - items.shape[1]
        items, log_pf = pad(items, (0, missing), value=-1), pad(log_pf, (0, 0, 0, missing))
        return items, log_pf.masked_fill((items < 0).unsqueeze(-1), torch.nan)

    def forget(self) -> None:
        """Drop what was started, for a run that does not go on."""
        wait(self._started.values())
        self._started.clear()

    def save(self, path: Path) -> None:
        """Wait for what was started and write it to `path`, complete or not at all; what failed is left out."""
        drawn = {name: future.result() for name, future in self._started.items() if not future.exception()}
        tensors = {f"{name}.items": one.items.cpu() for name, one in drawn.items()}
        tensors |= {f"{name}.log_pf": one.log_pf.cpu() for name, one in drawn.items()}
        with complete(path) as temporary:
            temporary.write_bytes(save(tensors, {name: str(one.version) for name, one in drawn.items()}))

    def load(self, path: Path) -> None:
        """Hold ready what `save` wrote; without such a file, of a run that drew nothing ahead, all is drawn anew."""
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            for name, version in (file.metadata() or {}).items():
                items, log_pf = (file.get_tensor(f"{name}.{part}").to(self._device) for part in ("items", "log_pf"))
                ready: Future[Drawn] = Future()
                self._started[name] = ready
                ready.set_result(Drawn(items, log_pf, int(version)))


def _check_numbers(log_pf: Tensor) -> None:
    if not log_pf.isfinite().all():
        raise DivergedError(
            "The rollout engine's log-probabilities are no numbers: the policy's weights have diverged.",
            remedy="Go on from an earlier checkpoint with a lower learning rate.",
        )


def _grown(paths: Tensor, parent: Tensor, last: Tensor) -> Tensor:
    """The paths [B, W, n] of the parents [B, W', 1], each one step longer by last [B, W']: [B, W', n + 1]."""
    return torch.cat([paths.gather(1, parent.expand(-1, -1, paths.shape[-1])), last.unsqueeze(-1)], -1)


def _token_lists(batch: PromptBatch) -> list[list[int]]:
    """The prompts without their padding."""
    rows = zip(batch.input_ids.cpu(), batch.attention_mask.cpu().bool(), strict=True)
    return [ids[mask].tolist() for ids, mask in rows]
