"""What the user did with an item: liked it, clicked it, gave it four stars."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from catalog import Catalog, SparseReward, Trajectories
from catalog.errors import InputError
from interactions.prompts import PromptBatch


class Behavior:
    """r_a of GFlowGR (arXiv 2506.16114): the value of the user's latest event with the item, the best possible as 1.

    r_a[b, k] = value of the event / largest value;  0 where none is known

    The events of the target and of the items in the prompt's history are known. Items are compared by semantic ID.

    values: the value of each `behavior` of the rows, such as {like: 10, click: 1}; the largest of them is the best
    possible. Without them the value is the number in `rating`, and the best possible is `largest`, by default 5.
    """

    def __init__(
        self, catalog: Catalog, values: Mapping[str | int, float] | None = None, largest: float | None = None
    ) -> None:
        if values is not None and largest is not None:
            raise InputError(
                f"values and largest={largest} are both given.", remedy="Leave out largest, which is for ratings."
            )
        if values is not None:
            numbers = list(values.values())
        else:
            numbers = [5.0 if largest is None else largest]
        if not all(0 <= number < math.inf for number in numbers) or not any(numbers):
            raise InputError(f"What users do is worth {numbers}.", remedy="Give numbers >= 0, the largest of them > 0.")
        self.values = None if values is None else {str(name): float(value) for name, value in values.items()}
        self.column, self.largest = "rating" if values is None else "behavior", max(numbers)
        self.trie, self.leaf, self.leaves = catalog.trie, catalog.trie.leaf_number, catalog.trie.leaves

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return self._leaf_values(batch).gather(1, self.leaf.to(batch.history.device)[trajectories.items])

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]"""
        return self._leaf_values(batch)[:, self.leaf.to(batch.history.device)]

    def sparse(self, batch: PromptBatch) -> SparseReward:
        """The leaves of the target and of the history."""
        self.trie = self.trie.to(batch.history.device)
        items = torch.cat([batch.history, batch.target.unsqueeze(1)], 1)  # [B, N + 1], oldest first
        leaf = self.trie.leaf_of_item[items].long().where(items >= 0, -1)
        again = (leaf.unsqueeze(2) == leaf.unsqueeze(1)).triu(1).any(2)  # the latest event with a leaf counts
        worth = self._event_values(batch).to(items.device)
        return SparseReward.from_nodes(leaf.masked_fill(again, -1), worth, torch.zeros(len(batch), device=worth.device))

    def _leaf_values(self, batch: PromptBatch) -> Tensor:
        """The value of each leaf: [B, leaves + 1], the last column is the padding's."""
        items = torch.cat([batch.history, batch.target.unsqueeze(1)], 1)  # [B, N + 1], oldest first
        leaf = self.leaf.to(items.device)[items].where(items >= 0, self.leaves)
        place = torch.arange(1, items.shape[1] + 1, device=items.device).expand_as(items)
        latest = torch.zeros(len(items), self.leaves + 1, dtype=torch.long, device=items.device)  # 0 for no event
        latest.scatter_reduce_(1, leaf, place, "amax")
        worth = torch.nn.functional.pad(self._event_values(batch).to(items.device), (1, 0))  # [B, N + 2]
        return worth.gather(1, latest)

    def _event_values(self, batch: PromptBatch) -> Tensor:
        """The value of each event of the prompts, oldest first, the target's last: [B, N + 1], 0 for padding."""
        names = (f"history_{self.column}", self.column)
        if missing := [name for name in names if name not in batch.columns]:
            raise InputError(
                f"The rows have no column {missing[0]!r}, from which the reward behavior is taken.",
                remedy=f"Prepare the data again from a log with the column {self.column!r}, or use the reward hit.",
            )
        past, last = batch.columns[names[0]], batch.columns[names[1]]
        events = [[*row[-batch.history.shape[1] :], event] for row, event in zip(past, last, strict=True)]
        if self.values is not None:
            if unknown := sorted({event for row in events for event in row} - self.values.keys()):
                raise InputError(
                    f"Behavior {unknown[0]!r} of the rows is not among values={self.values}.",
                    remedy="Say what it is worth; 0 for nothing.",
                )
            events = [[self.values[event] for event in row] for row in events]
        worth = pad_sequence(
            [torch.tensor(row, dtype=torch.float32) for row in events], batch_first=True, padding_side="left"
        )
        if (bad := (worth < 0) | (worth > self.largest)).any():
            row, column = bad.nonzero()[0].tolist()
            raise InputError(
                f"A rating of user {batch.users[row]!r} is {worth[row, column].item():g}, but ratings are taken to "
                f"lie between 0 and largest={self.largest:g}.",
                remedy="Set largest to the scale's best rating.",
            )
        return worth / self.largest
