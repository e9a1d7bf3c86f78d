"""What a rollout server may be asked, so that its engine cannot fail at it."""

from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import torch

from catalog import Trie
from catalog.errors import InputError
from catalog.extras import extra
from samplers.rollouts.engine import WeightMeta
from samplers.rollouts.servers import MOST_DRAWS, MOST_PROMPTS
from samplers.rollouts.wire import ALIGNMENT, PART_BYTES

with extra("server", "A rollout server"):
    from pydantic import BaseModel, ConfigDict, Field

MOST_META = 32 * 2**20
"""Bytes of the names, dtypes and shapes of all weights."""

Seed = Annotated[int, Field(ge=0, lt=2**62)]  # draw k of a prompt has its seed + k, which must stay below 2^63
Prompts = Annotated[list[list[int]], Field(min_length=1, max_length=MOST_PROMPTS)]
Version = Annotated[str, Field(max_length=200)]
Shape = list[Annotated[int, Field(ge=0, lt=2**40)]]


class StrictRequest(BaseModel):
    """A request without further fields, whose values have exactly the stated kinds."""

    model_config = ConfigDict(strict=True, extra="forbid")


class SampleRequest(StrictRequest):
    """B prompts, and as many seeds."""

    version: Version
    prompts: Prompts
    count: int = Field(ge=1, le=2**14)  # of vLLM
    seeds: list[Seed]


class ExtendRequest(StrictRequest):
    """B prompts, each ending with `prefix` codes of an item."""

    version: Version
    prompts: Prompts
    prefix: int = Field(ge=0)
    width: int = Field(ge=1)


class WeightsRequest(StrictRequest):
    """Which weights will come, in parts of at most `part_bytes`."""

    version: Version
    part_bytes: int = Field(ge=ALIGNMENT, le=PART_BYTES, multiple_of=ALIGNMENT)
    names: list[str] = Field(min_length=1)
    dtypes: list[str]
    shapes: list[Shape]

    def metas(self) -> list[WeightMeta]:
        """Raises InputError for lists that do not fit together and what is no dtype."""
        if not len(self.names) == len(self.dtypes) == len(self.shapes):
            raise InputError("names, dtypes and shapes of the weights are not equally many.", field="names")
        dtypes: dict[str, torch.dtype] = {}
        for name in set(self.dtypes):
            if not isinstance(dtype := getattr(torch, name, None), torch.dtype):
                raise InputError(f"dtypes: {name[:20]!r} is no dtype of torch.", field="dtypes", value=name)
            dtypes[name] = dtype
        rows = zip(self.names, self.dtypes, self.shapes, strict=True)
        return [WeightMeta(name, dtypes[dtype], tuple(shape)) for name, dtype, shape in rows]


class InitRequest(StrictRequest):
    """What a backend of vLLM's weight transfer needs to meet the sender, within `seconds`."""

    init_info: dict[str, Any]
    seconds: float = Field(gt=0, le=86_400)


class UpdateRequest(StrictRequest):
    """What a backend of vLLM's weight transfer needs to receive weights, within `seconds`."""

    update_info: dict[str, Any]
    seconds: float = Field(gt=0, le=86_400)


class FinishRequest(StrictRequest):
    """What the weights are called that have come."""

    version: Version


@dataclass(frozen=True)
class Bounds:
    """What a request may hold.

    trie: the catalog's. vocabulary: tokens of the model. longest: tokens of the longest prompt.
    """

    trie: Trie
    vocabulary: int
    longest: int

    def body(self, path: str) -> int:
        """Bytes of the largest body."""
        if path == "/weights":
            return PART_BYTES
        if path == "/update_weights":
            return MOST_META
        return MOST_PROMPTS * (12 * (self.longest + self.trie.levels) + 32) + 2**16  # decimals, commas and spaces

    def check(self, asked: SampleRequest | ExtendRequest) -> None:
        """Raise InputError for what the engine cannot draw."""
        prefix, each = (0, asked.count) if isinstance(asked, SampleRequest) else (asked.prefix, asked.width)
        shortest, longest = 1 + prefix, self.longest + prefix
        if prefix >= self.trie.levels:
            self._refuse("prefix", prefix, f"items have {self.trie.levels} codes")
        if isinstance(asked, ExtendRequest) and each > max(self.trie.max_children):
            self._refuse("width", each, f"no code is followed by more than {max(self.trie.max_children)}")
        if isinstance(asked, SampleRequest) and len(asked.seeds) != len(asked.prompts):
            self._refuse("seeds", len(asked.seeds), f"there are {len(asked.prompts)} prompts")
        if len(asked.prompts) * each > MOST_DRAWS:
            self._refuse("prompts", len(asked.prompts), f"with {each} of each that is more than {MOST_DRAWS} in all")
        for prompt in asked.prompts:
            if not shortest <= len(prompt) <= longest:
                self._refuse("prompts", len(prompt), f"a prompt has {shortest} to {longest} tokens")
            if not 0 <= min(prompt) <= max(prompt) < self.vocabulary:
                self._refuse("prompts", max(prompt, key=abs), f"tokens are 0 to {self.vocabulary - 1}")

    @staticmethod
    def _refuse(field: str, value: Any, reason: str) -> NoReturn:
        raise InputError(f"{field}: {value} cannot be, {reason}.", field=field, value=value)
