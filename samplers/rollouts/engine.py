"""The protocol of rollout engines, which draw from a copy of the policy's weights."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class WeightMeta(NamedTuple):
    """One weight of a checkpoint."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Weights(Protocol):
    """The weights of a checkpoint, as often as they are iterated; every process iterates to the end.

    A tensor is valid until the next one is asked for.
    """

    def metadata(self) -> list[WeightMeta]:
        """What the iteration gives, in its order."""
        ...

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


class RolloutEngine(Protocol):
    """Draws codes after prompts. `version` is the optimizer step whose weights it holds, -1 before the first `load`.

    `load` gives it weights under the names of a transformers checkpoint; every process calls it, with all weights, at
    a time when nothing is drawn.
    """

    version: int
    dtype: torch.dtype
    """Of its copy of the weights, and of what it computes."""

    def load(self, weights: Weights, version: int) -> None: ...

    def confirm_weights(self) -> None:
        """Called once every process has returned from `load`: find out what may draw now."""
        ...

    def sample(self, prompts: Sequence[list[int]], count: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`count` draws from P_F after each prompt: tokens [B, count, L], log_pf [B, count, L] float32, on the CPU."""
        ...

    def extend(self, prompts: Sequence[list[int]], prefix: int, width: int) -> tuple[Tensor, Tensor]:
        """The likeliest next codes where each prompt ends with `prefix` codes of an item: tokens and log_pf [B, width].

        -inf where a node has fewer children.
        """
        ...

    def sleep(self) -> None:
        """Nothing will be drawn until the next `load`: free memory."""
        ...

    def close(self) -> None:
        """Nothing will be drawn any more. Called before the process group ends, which an engine may use."""
        ...
