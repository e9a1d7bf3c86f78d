"""Trajectories of earlier steps: a bounded memory with priorities for each user."""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from catalog import PADDING, SOURCES, Trajectories, Trie
from catalog.errors import InputError
from catalog.files import complete
from interactions.prompts import PromptBatch
from samplers.base import draw, with_padding

LEAST = 1e-3
"""Added to every priority, so that every remembered item can be drawn."""


class ReplaySampler:
    """Trajectories of earlier steps, drawn in proportion to their priority among those of the same user.

    prioritize: by "reward" (arXiv 2305.07170) or by "error", the size of the loss's residual (arXiv 1511.05952).
    size: how many distinct semantic IDs are kept per user; beyond it the one with the lowest priority is dropped.
    The rows' column `user` says whose trajectories they are. A trainer calls `update` after each loss, and `save` and
    `load` with its checkpoints.
    """

    def __init__(
        self,
        trie: Trie,
        catalog_fingerprint: str,
        size: int = 32,
        prioritize: Literal["reward", "error"] = "reward",
    ) -> None:
        if size < 1:
            raise InputError(f"replay: size={size} remembers nothing.", remedy="Set it to 1 or more.", field="replay")
        if prioritize not in ("reward", "error"):
            raise InputError(
                f"replay: prioritize={prioritize!r} is unknown.",
                remedy="Set it to 'reward' or 'error'.",
                field="replay",
            )
        self.trie, self.catalog_fingerprint = trie, catalog_fingerprint
        self.size, self.prioritize = size, prioritize
        self.users: dict[Hashable, dict[int, float]] = {}  # user -> item that stands for its leaf -> priority

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        """Distinct within a prompt and never the target; padding where a user has fewer."""
        target = self.trie.representative(batch.target).tolist()
        items, priority = [], []
        for user, excluded in zip(batch.columns["user"], target, strict=True):
            memory = {item: p for item, p in self.users.get(user, {}).items() if item != excluded}
            empty = self.size - len(memory)
            items.append([*memory, *[-1] * empty])
            priority.append([*memory.values(), *[0.0] * empty])
        device = batch.history.device
        drawn = draw(torch.tensor(items, device=device), torch.tensor(priority, device=device), count, seed)
        return with_padding(drawn, batch, self.trie, "replay")

    def update(self, batch: PromptBatch, trajectories: Trajectories, reward: Tensor, error: Tensor) -> None:
        """Remember what was drawn, except for the source `target`. An item that is known gets its new priority.

        reward [B, K] >= 0; error [B, K] of either sign.
        """
        priority = (reward if self.prioritize == "reward" else error.abs()) + LEAST
        source = trajectories.source
        row, slot = ((source != PADDING) & (source != SOURCES.index("target"))).nonzero(as_tuple=True)
        item = self.trie.representative(trajectories.items[row, slot])
        for r, i, p in zip(row.tolist(), item.tolist(), priority[row, slot].tolist(), strict=True):
            self._put(batch.columns["user"][r], i, p)

    def _put(self, user: Hashable, item: int, priority: float) -> None:
        memory = self.users.setdefault(user, {})
        memory[item] = priority
        if len(memory) > self.size:
            del memory[min(memory, key=memory.__getitem__)]

    def state_dict(self) -> dict[str, Any]:
        """users; and for all of them in turn counts [users], items and float64 priorities [sum of the counts]."""
        entries = [entry for memory in self.users.values() for entry in memory.items()]
        return {
            "users": list(self.users),
            "counts": torch.tensor([len(memory) for memory in self.users.values()], dtype=torch.long),
            "items": torch.tensor([item for item, _ in entries], dtype=torch.long),
            "priority": torch.tensor([priority for _, priority in entries], dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember exactly what `state_dict` gave. The order stays the same, since draws depend on it."""
        self.users = {}
        owners = [user for user, n in zip(state["users"], state["counts"].tolist(), strict=True) for _ in range(n)]
        for user, item, priority in zip(owners, state["items"].tolist(), state["priority"].tolist(), strict=True):
            self._put(user, item, priority)

    def save(self, path: Path) -> None:
        """Write the memory as one safetensors file, complete or not at all."""
        state = self.state_dict()
        metadata = {"users": json.dumps(state.pop("users")), "catalog_fingerprint": self.catalog_fingerprint}
        with complete(path) as temporary:
            temporary.write_bytes(save(state, metadata))

    def load(self, path: Path) -> None:
        """Read what `save` wrote. Raises InputError where it was written for another catalog."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if (written := metadata["catalog_fingerprint"]) != self.catalog_fingerprint:
                raise InputError(
                    f"{path} remembers items of catalog {written}, not of {self.catalog_fingerprint}.",
                    remedy="Resume with the catalog it was written for, or delete the file to begin with an empty "
                    "memory.",
                    file=path,
                )
            state = {name: file.get_tensor(name) for name in ("counts", "items", "priority")}
        self.load_state_dict(state | {"users": json.loads(metadata["users"])})
