"""What a sampler hands to a reward and to a loss: K items per prompt and how they were drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SOURCES = ("target", "random", "policy", "interactions", "curriculum", "confidence", "replay", "reward")
"""Names of the samplers a trajectory can come from; `Trajectories.source` holds positions in this tuple."""

PADDING = -1
"""The source of a slot that holds no trajectory."""


@dataclass(frozen=True)
class Trajectories:
    """K root-to-leaf paths of the trie for each of B prompts.

    items [B, K] catalog numbers; codes [B, K, L]; source [B, K] positions in `SOURCES`, `PADDING` for an empty slot;
    log_pf [B, K, L] log-probabilities under the policy that drew them, NaN where no policy did; age [B, K] how many
    optimizer steps ago that policy's weights were the current ones, 0 if not given.
    """

    items: Tensor
    codes: Tensor
    source: Tensor
    log_pf: Tensor
    age: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.age is None:
            object.__setattr__(self, "age", torch.zeros_like(self.items))

    @classmethod
    def from_items(cls, items: Tensor, codes: Tensor, source: str) -> "Trajectories":
        """Trajectories to given items [B, K] with codes [B, K, L] that no policy drew."""
        return cls(
            items=items,
            codes=codes,
            source=torch.full_like(items, SOURCES.index(source)),
            log_pf=torch.full(codes.shape, torch.nan, device=codes.device),
        )

    @classmethod
    def concat(cls, parts: Sequence["Trajectories"]) -> "Trajectories":
        """The same prompts' trajectories from several sources, side by side: [B, K1] + [B, K2] -> [B, K1 + K2]."""
        return cls(*(torch.cat([getattr(part, name) for part in parts], 1) for name in cls.__dataclass_fields__))

    def rows(self, start: int, stop: int) -> "Trajectories":
        """The trajectories of prompts start..stop - 1."""
        return replace(self, **{name: getattr(self, name)[start:stop] for name in self.__dataclass_fields__})

    def copy(self) -> "Trajectories":
        """The same with tensors of its own, for code that may change what it is given."""
        return replace(self, **{name: getattr(self, name).clone() for name in self.__dataclass_fields__})

    def to(self, device: torch.device) -> "Trajectories":
        return replace(self, **{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})
