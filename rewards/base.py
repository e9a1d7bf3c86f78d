"""What a trajectory is worth."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from catalog import Catalog, SparseReward, SparseValues, Trajectories, Trie
from catalog.errors import DivergedError, InputError, RunError
from interactions.prompts import PromptBatch


class Reward(Protocol):
    """Scores trajectories: [B, K], finite and >= 0.

    It gets copies, so what it changes in them changes nothing else.

    A reward that also has `catalog(batch) -> [B, items]` scores every item at once, which makes exact flows possible.
    One with `sparse(batch) -> SparseReward` names few items and says what all others have, which makes them possible in
    a catalog of any size; small catalogs need no `catalog` then.
    One with the attribute `signed = True` returns values below 0, and only a `WeightedSum` that is signed takes it.
    """

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor: ...


class WeightedSum:
    """R = sum_i weight_i * R_i over named rewards ("Sum" in GFlowGR, arXiv 2506.16114, section on the reward model).

    Raises InputError naming the reward whose values are NaN, infinite, negative or of another shape than asked for,
    and RunError naming the one that raises an error. With `catalog` messages give the ids of items.

    signed: whether values below 0 are allowed, for a method that takes no logarithm of the sum.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, float] | None = None,
        catalog: Catalog | None = None,
        signed: bool = False,
    ) -> None:
        self.rewards = dict(rewards)
        self.signed = signed
        self.weights = {name: 1.0 for name in rewards} | dict(weights or {})
        self._catalog = catalog
        if not rewards:
            raise InputError("No reward is given.", remedy="Name at least one, for instance hit.")
        if unknown := sorted(set(self.weights) - set(rewards)):
            raise InputError(f"Weights are given for {unknown}, but the rewards are {sorted(rewards)}.")
        for name, weight in self.weights.items():
            if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise InputError(
                    f"The weight of reward {name} is {weight!r}.",
                    remedy="Weights are finite numbers >= 0.",
                    field="rewards",
                    value=weight,
                )
        if penalties := [name for name, reward in rewards.items() if getattr(reward, "signed", False) and not signed]:
            raise InputError(
                f"Reward {penalties[0]} is a penalty: its values lie below 0 and have no logarithm.",
                remedy="Use it with grpo, or leave it out of rewards.",
            )

    def terms(self, batch: PromptBatch, trajectories: Trajectories) -> dict[str, Tensor]:
        """Each reward's weighted values [B, K], checked."""
        return {name: self.weights[name] * self._value(name, batch, trajectories) for name in self.rewards}

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return reduce(torch.add, self.terms(batch, trajectories).values())

    @property
    def scores_catalog(self) -> bool:
        """Whether every term can score the whole catalog."""
        return all(hasattr(reward, "catalog") or hasattr(reward, "sparse") for reward in self.rewards.values())

    @property
    def dense_only(self) -> list[str]:
        """The terms that do not say which items they name, so that the sum is not known sparsely."""
        return [name for name, reward in self.rewards.items() if not hasattr(reward, "sparse")]

    def catalog(self, batch: PromptBatch) -> Tensor:
        """The sum for every item: [B, items], where `scores_catalog`."""
        return reduce(torch.add, (self.weights[name] * self._value(name, batch, None) for name in self.rewards))

    def sparse(self, batch: PromptBatch, trie: Trie) -> tuple[SparseValues, Tensor]:
        """The sum where no term is `dense_only`, and the largest share of its mass that a term cuts [B].

        trie: on the batch's device. Raises InputError also for a term that names an item twice.
        """
        parts = [self._sparse_value(name, batch, trie) for name in self.rewards]
        values = SparseValues.from_rewards(parts, [self.weights[name] for name in self.rewards], trie)
        cuts = [part.cut for part in parts if part.cut is not None]
        return values, torch.stack(cuts).amax(0) if cuts else torch.zeros_like(parts[0].rest)

    def _sparse_value(self, name: str, batch: PromptBatch, trie: Trie) -> SparseReward:
        with self._named_errors(name, batch, "the whole catalog"):
            reward = self.rewards[name].sparse(batch.copy())  # type: ignore[attr-defined]
        check_sparse(name, reward, len(batch), trie, signed=self.signed)
        return reward

    def _value(self, name: str, batch: PromptBatch, trajectories: Trajectories | None) -> Tensor:
        """One reward of trajectories [B, K], or of every item [B, items] where none are given; checked."""
        reward: Any = self.rewards[name]
        items = "the whole catalog" if trajectories is None else f"items {self._ids(trajectories)} and others"
        with self._named_errors(name, batch, items):
            if trajectories is not None:
                value = reward(batch.copy(), trajectories.copy())
            elif not hasattr(reward, "sparse") or hasattr(reward, "catalog"):
                value = reward.catalog(batch.copy())
            else:
                assert self._catalog is not None
                value = reward.sparse(batch.copy()).dense(self._catalog.trie.to(batch.history.device))
        if trajectories is not None:
            _check_shape(name, value, trajectories.items.shape, "trajectories")
        elif self._catalog is not None:
            _check_shape(name, value, torch.Size([len(batch), len(self._catalog)]), "items")
        lowest, highest = value.aminmax()  # one pass, and NaN where any value is
        high_enough = lowest > -math.inf if self.signed else lowest >= 0
        if not (high_enough & (highest < math.inf)):  # as one tensor: to look at each would wait for a GPU twice
            raise self._out_of_range(name, value, batch, trajectories)
        return value.detach().float()

    def _out_of_range(
        self, name: str, value: Tensor, batch: PromptBatch, trajectories: Trajectories | None
    ) -> InputError:
        """What to raise for the first value that is not finite, or negative where that is not allowed."""
        allowed = value.isfinite() if self.signed else value.isfinite() & (value >= 0)
        row, column = (~allowed).nonzero()[0].tolist()
        item, place = column, ""
        if trajectories is not None:
            item, place = int(trajectories.items[row, column]), f"trajectory {column} of "
        return InputError(
            f"Reward {name} is {value[row, column].item()} for {place}user {batch.users[row]!r}, {self._named(item)}.",
            remedy=f"Rewards are finite{'' if self.signed else ' and >= 0'}; shift or clip it.",
        )

    @contextmanager
    def _named_errors(self, name: str, batch: PromptBatch, items: str) -> Iterator[None]:
        """Say of what raises an error inside which reward it is."""
        try:
            yield
        except DivergedError:
            raise
        except Exception as error:
            raise RunError(
                f"Reward {name} failed for users {batch.users[:3]}, {items}: {error!r}.",
                remedy="Correct the reward or what it reads, or leave it out of rewards.",
            ) from error

    def _ids(self, trajectories: Trajectories) -> list[str] | list[int]:
        """The first three items."""
        numbers = trajectories.items.flatten()[:3].tolist()
        return numbers if self._catalog is None else [self._catalog.item_ids[number] for number in numbers]

    def _named(self, item: int) -> str:
        if self._catalog is None:
            return f"item {item}"
        codes = self._catalog.trie.codes(torch.tensor(item)).tolist()
        return f"item {self._catalog.item_ids[item]!r} with the semantic ID {codes}"


def _check_shape(name: str, value: Tensor, shape: torch.Size, axis: str) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(
            f"Reward {name} returned {what} for a tensor {list(shape)} [prompts, {axis}].",
            remedy=f"Return one value for each of a prompt's {axis}.",
        )


def check_sparse(name: str, reward: SparseReward, rows: int, trie: Trie, *, signed: bool) -> None:
    """Raise InputError for shapes, items or values that a `SparseReward` of `rows` prompts cannot have."""
    if not isinstance(reward, SparseReward):
        raise InputError(
            f"Reward {name} returned a {type(reward).__name__} from sparse(batch).", remedy="Return a SparseReward."
        )
    _check_shape(name, reward.rest, torch.Size([rows]), "rest")
    pairs = [
        (reward.items, reward.values, "items", trie.items),
        (reward.nodes, reward.node_values, "nodes", trie.nodes),
    ]
    for numbers, values, what, count in pairs:
        if numbers is None and values is None:
            continue
        if numbers is None or values is None or numbers.shape != values.shape or len(numbers) != rows:
            raise InputError(
                f"Reward {name}: {what} and their values differ in shape, or have no {rows} rows.",
                remedy=f"Return one row of {what}, and of values, for each prompt.",
            )
        if numbers.numel() and not (numbers.min() >= -1 and numbers.max() < count):
            raise InputError(
                f"Reward {name} has the {what} {numbers.min()} to {numbers.max()}, but there are 0 to {count - 1}.",
                remedy="Fit what it reads on the data of this run; -1 is an empty place.",
            )
    listed, values = reward.listed(trie)
    ordered = listed.sort(1).values
    if (twice := (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise InputError(
            f"Reward {name} names an item twice for the prompt in row {int(twice.any(1).nonzero()[0])} of a batch.",
            remedy="Name each item and each node once in a row of sparse(batch).",
        )
    for value in (values.where(listed >= 0, 0.0), reward.rest):
        if not (value.isfinite().all() and (signed or bool((value >= 0).all()))):
            raise InputError(
                f"Reward {name} has a value in sparse(batch) that is not finite{'' if signed else ', or below 0'}.",
                remedy="Shift or clip it.",
            )


def log_reward(reward: Tensor, floor: float, temperature: float) -> Tensor:
    """log(max(R, floor)) / temperature, elementwise; floor > 0 because log 0 would end the run."""
    return reward.clamp(min=floor).log() / temperature
