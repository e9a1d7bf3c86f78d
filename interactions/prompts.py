"""Rows of users into what the model reads: a batch of left-padded token histories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from catalog import Catalog, node_tokens


@dataclass(frozen=True)
class PromptBatch:
    """B prompts. P = 1 + N * L tokens: a start token, then the codes of the last N items of the history.

    input_ids, attention_mask [B, P], left-padded; history [B, N] the same items as numbers, -1 for padding; target [B];
    columns: every further column of the rows (user, behaviour, rating, ...), a list of B values each; what belongs to
    the whole history, such as history_rating, ends where `history` ends and may begin before it.
    """

    input_ids: Tensor
    attention_mask: Tensor
    history: Tensor
    target: Tensor
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)

    @property
    def users(self) -> list[Any]:
        """Who asks, for messages: the column `user`, or the rows' numbers where there is none."""
        return self.columns.get("user", list(range(len(self))))

    def rows(self, start: int, stop: int) -> "PromptBatch":
        """The prompts start..stop - 1."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        tensors = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name != "columns"}
        return replace(self, columns=columns, **tensors)

    def to(self, device: torch.device) -> "PromptBatch":
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "columns"})


class PromptBuilder:
    """Turns rows (history, target, ...) into a `PromptBatch` for one catalogue and tokenizer.

    max_history: how many of the newest items of a history the model reads; must be at least 1.
    """

    def __init__(self, catalog: Catalog, tokenizer: PreTrainedTokenizerBase, max_history: int) -> None:
        if max_history < 1:
            raise ValueError(f"max_history={max_history}: a prompt holds at least one item. Set it to 1 or more.")
        self.trie, self.max_history = catalog.trie, max_history
        self.tokens = node_tokens(tokenizer, catalog.trie)  # [nodes]
        self.start, self.pad = tokenizer.bos_token_id, tokenizer.pad_token_id
        if self.start is None or self.pad is None:
            raise ValueError("The tokenizer needs a bos_token and a pad_token. Set both before training.")

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return 1 + self.max_history * self.trie.levels

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> PromptBatch:
        """The prompts of B rows. Raises ValueError naming the user whose history is empty."""
        if empty := [row for row in rows if not len(row["history"])]:
            raise ValueError(f"User {empty[0].get('user')!r} has an empty history. Drop users without a past.")
        items = [torch.as_tensor(row["history"][-self.max_history :], dtype=torch.long) for row in rows]
        history = pad_sequence(items, batch_first=True, padding_value=-1, padding_side="left")  # [B, N]
        tokens = self.tokens[self.trie.path(history.clamp(min=0))[..., 1:]]  # [B, N, L]
        tokens = tokens.masked_fill((history < 0).unsqueeze(-1), self.pad).flatten(1)  # [B, N * L]
        padding = (history < 0).sum(1, keepdim=True) * self.trie.levels  # [B, 1], tokens before the start token
        column = torch.arange(1 + tokens.shape[1])
        input_ids = torch.cat([torch.full_like(padding, self.pad), tokens], 1).where(column != padding, self.start)
        return PromptBatch(
            input_ids=input_ids,
            attention_mask=(column >= padding).long(),
            history=history,
            target=torch.tensor([row["target"] for row in rows]),
            columns={name: [row[name] for row in rows] for name in rows[0] if name not in ("history", "target")},
        )
