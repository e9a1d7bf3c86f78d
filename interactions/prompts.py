"""Rows of users into what the model reads: a batch of left-padded token histories."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from catalog import Catalog, node_tokens
from catalog.errors import InputError

logger = logging.getLogger(__name__)

ROW_NUMBER = "row_number"
"""The column that says which training row it is."""
OWN_COLUMNS = ("history", "target", "user_items", ROW_NUMBER)
"""Columns of a row that are fields of a `PromptBatch`."""
UNTITLED = "(no title)"
"""What a prompt calls an item without a title."""
MEASURED_TITLES, KEPT_TITLES = 20_000, 200_000
"""Of how many titles the longest is looked for, and how many are kept as tokens before they are forgotten."""


@dataclass(frozen=True)
class PromptBatch:
    """B prompts of P tokens: a start token, text if there is a template, the codes of the last N items of the history,
    then `after` tokens of text. Without a template P = 1 + N * L.

    Rows are padded on the left, so the codes stand in the columns P - after - N * L to P - after - 1 of every row, and
    the logits one column earlier predict them. Where history is -1 these columns hold padding or text instead.

    input_ids, attention_mask [B, P], left-padded; history [B, N] the same items as numbers, -1 for padding;
    given_target [B], None where the next item is not known, as in use; columns: every further column of the rows
    (user, behavior, rating, ...), a list of B values each; what belongs to the whole history, such as history_rating,
    ends where `history` ends and may begin before it.

    Of training rows there may be: user_items, all training items of each user, which a recommender leaves out of its
    counts; row_numbers, their places in the training data, under which something may be kept of them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    history: Tensor
    given_target: Tensor | None
    columns: dict[str, list[Any]] = field(default_factory=dict)
    after: int = 0
    user_items: list[list[int]] | None = None
    row_numbers: list[int] | None = None

    def __len__(self) -> int:
        return len(self.history)

    @property
    def target(self) -> Tensor:
        """The items that came next [B]. Raises InputError where the rows do not say them."""
        if self.given_target is None:
            raise InputError(
                "The rows have no column target, the item that came next.", remedy="Add it.", field="target"
            )
        return self.given_target

    @property
    def users(self) -> list[Any]:
        """The users of the prompts, for messages: the column `user`, or the numbers of the rows without one."""
        return self.columns.get("user", list(range(len(self))))

    def token_lists(self) -> list[list[int]]:
        """The tokens of each prompt without its padding."""
        rows = zip(self.input_ids.cpu(), self.attention_mask.cpu().bool(), strict=True)
        return [tokens[mask].tolist() for tokens, mask in rows]

    def item_lists(self) -> list[list[int]]:
        """The items of each prompt's history, oldest first, without the padding."""
        return [[item for item in row if item >= 0] for row in self.history.tolist()]

    def rows(self, start: int, stop: int) -> "PromptBatch":
        """The prompts start..stop - 1."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        parts = {name: values[start:stop] for name, values in (self._tensors | self._lists).items()}
        return replace(self, columns=columns, **parts)

    def copy(self) -> "PromptBatch":
        """The same with tensors and columns of its own, for code that may change what it is given."""
        columns = {name: _copied(values) for name, values in self.columns.items()}
        lists = {name: _copied(values) for name, values in self._lists.items()}
        tensors = {name: tensor.clone() for name, tensor in self._tensors.items()}
        return replace(self, columns=columns, **tensors, **lists)

    def to(self, device: torch.device) -> "PromptBatch":
        return replace(self, **{name: tensor.to(device) for name, tensor in self._tensors.items()})

    @property
    def _tensors(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def _lists(self) -> dict[str, Any]:
        found = {"user_items": self.user_items, "row_numbers": self.row_numbers}
        return {name: values for name, values in found.items() if values is not None}


def _copied(value: Any) -> Any:
    """A copy of nested lists, ten times as fast as deepcopy. What the lists hold cannot be changed in place."""
    return [_copied(one) for one in value] if isinstance(value, list) else value


class PromptBuilder:
    """Turns rows (history and, where it is known, target, ...) into a `PromptBatch` for one catalog and tokenizer.

    max_history: how many of the newest items of a history the model reads; must be at least 1.

    template: text around the codes, for instance "Bought: {titles}\\nAs IDs: {history}\\nThe next item is". It holds
    {history}, the codes, once, and may hold {titles} before it: the titles of the same items, oldest first, joined by
    ", ". Without one a prompt is the start token and the codes. Each piece of text is tokenized by itself, without
    special tokens: what stands before {titles}, every title with the comma before it, what stands between {titles} and
    {history}, and what stands behind. So no code merges with text, and codes have fixed places from the row's end. An
    item without a title is called UNTITLED.
    """

    def __init__(
        self, catalog: Catalog, tokenizer: PreTrainedTokenizerBase, max_history: int, template: str | None = None
    ) -> None:
        if max_history < 1:
            raise InputError(
                f"max_history={max_history}: a prompt holds at least one item.",
                remedy="Set it to 1 or more.",
                field="max_history",
                value=max_history,
            )
        self.trie, self.max_history = catalog.trie, max_history
        self.tokens = node_tokens(tokenizer, catalog.trie)  # [nodes]
        self.start, self.pad = tokenizer.bos_token_id, tokenizer.pad_token_id
        if self.start is None or self.pad is None:
            raise InputError("The tokenizer needs a bos_token and a pad_token.", remedy="Set both before training.")
        before, between, after = _pieces(template)
        self.before, self.between, self.after = _encode(tokenizer, [before, between or "", after])
        self.titles = None if between is None else TitleTokens(catalog, tokenizer)

    @property
    def longest(self) -> int:
        """Tokens that no prompt exceeds: max_history items, and with {titles} all of them the longest title's."""
        title = 0 if self.titles is None else self.titles.longest
        text = len(self.before) + len(self.between) + len(self.after)
        return 1 + text + self.max_history * (title + self.trie.levels)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> PromptBatch:
        """The prompts of B rows. Raises InputError for no rows, a history that is empty or holds no item, and a target
        in some rows alone."""
        if not rows:
            raise InputError("There are no rows to make prompts of.", remedy="Give at least one.")
        known = sum(row.get("target") is not None for row in rows)
        if known not in (0, len(rows)):
            raise InputError(
                f"{len(rows) - known} of {len(rows)} rows have no target.",
                remedy="Give it in all of them, or in none.",
                field="target",
            )
        if empty := [row for row in rows if not len(row["history"])]:
            raise InputError(
                f"User {empty[0].get('user')!r} has an empty history.", remedy="Drop users without a past."
            )
        items = [self._items(row) for row in rows]
        history = _left_padded(items, -1)  # [B, N]
        codes = self.tokens[self.trie.path(history.clamp(min=0))[..., 1:]]  # [B, N, L]
        titles = [[]] * len(items) if self.titles is None else self.titles([newest.tolist() for newest in items])
        prompts = [
            self._prompt(named, row[-len(newest) :].flatten())
            for newest, named, row in zip(items, titles, codes, strict=True)
        ]
        return PromptBatch(
            input_ids=_left_padded(prompts, self.pad),
            attention_mask=_left_padded([torch.ones_like(prompt) for prompt in prompts], 0),
            history=history,
            given_target=torch.tensor([row["target"] for row in rows]) if known else None,
            columns={name: [row[name] for row in rows] for name in rows[0] if name not in OWN_COLUMNS},
            after=len(self.after),
            user_items=[row["user_items"] for row in rows] if "user_items" in rows[0] else None,
            row_numbers=[row[ROW_NUMBER] for row in rows] if ROW_NUMBER in rows[0] else None,
        )

    def _items(self, row: Mapping[str, Any]) -> Tensor:
        """The newest items of a history: [n] int64."""
        items = torch.as_tensor(row["history"][-self.max_history :])
        if items.is_floating_point() or items.dtype == torch.bool or items.min() < 0 or items.max() >= self.trie.items:
            wrong = [v for v in items.tolist() if isinstance(v, bool | float) or not 0 <= v < self.trie.items]
            raise InputError(
                f"User {row.get('user')!r} has {wrong[0]!r} in the history, but items are 0 to {self.trie.items - 1}.",
                remedy="Leave padding out, and number the items as the catalog does.",
                field="history",
                row=row.get("user"),
                value=wrong[0],
            )
        return items.long()

    def _prompt(self, titles: Sequence[int], codes: Tensor) -> Tensor:
        """The tokens of one prompt without its padding: titles, those of its n items; codes [n * L]."""
        before = [self.start, *self.before, *titles, *self.between]
        return torch.cat([codes.new_tensor(before), codes, codes.new_tensor(self.after)])


class TitleTokens:
    """The tokens of items' titles, made when an item is met and kept for the next time.

    longest: how many tokens a title has at most, that of the longest of the `MEASURED_TITLES` that are the longest as
    text; further tokens of another one are cut. Raises InputError where no item has a title.
    """

    def __init__(self, catalog: Catalog, tokenizer: PreTrainedTokenizerBase) -> None:
        missing = len(catalog) - sum(map(bool, catalog.titles))
        if missing == len(catalog):
            raise InputError(
                "prompt_template has {titles} but the catalog has none.",
                remedy="Prepare the data with titles, or leave {titles} out.",
                field="prompt_template",
            )
        if missing:
            logger.warning("%d of %d items have no title: prompts call them %r", missing, len(catalog), UNTITLED)
        self._tokenizer, self._named = tokenizer, catalog.titles
        size = np.fromiter((len((title or UNTITLED).encode()) for title in catalog.titles), np.int32, len(catalog))
        some = np.argsort(-size, kind="stable")[:MEASURED_TITLES].tolist()
        self._kept = self._encode([(item, before) for item in some for before in ("", ", ")])
        self.longest = max(map(len, self._kept.values()))

    def __call__(self, histories: Sequence[list[int]]) -> list[list[int]]:
        """The tokens of the titles of each history, oldest first, with a comma before each but the first."""
        asked = [[(item, ", " if place else "") for place, item in enumerate(items)] for items in histories]
        met = dict.fromkeys(title for titles in asked for title in titles)
        if len(self._kept) > KEPT_TITLES:
            self._kept.clear()
        if new := [title for title in met if title not in self._kept]:
            self._kept |= {title: tokens[: self.longest] for title, tokens in self._encode(new).items()}
        return [np.concatenate([self._kept[title] for title in titles]).tolist() for titles in asked]

    def _encode(self, titles: Sequence[tuple[int, str]]) -> dict[tuple[int, str], np.ndarray]:
        """The tokens of items' titles by item and what stands before the title."""
        texts = [before + (self._named[item] or UNTITLED) for item, before in titles]
        return {title: np.array(t, np.int32) for title, t in zip(titles, _encode(self._tokenizer, texts), strict=True)}


def _pieces(template: str | None) -> tuple[str, str | None, str]:
    """The text before {titles}, between {titles} and {history}, None without {titles}, and behind {history}."""
    if template is None:
        return "", None, ""
    text = re.split(r"\{([^{}]*)\}", template)  # text, name, text, ..., text
    names = text[1::2]
    if unknown := set(names) - {"titles", "history"}:
        raise InputError(
            f"prompt_template={template!r} has {{{min(unknown)}}}, but only {{titles}} and {{history}} are filled in.",
            field="prompt_template",
            value=template,
        )
    if names.count("history") != 1 or names.count("titles") > 1:
        raise InputError(
            f"prompt_template={template!r} must have {{history}} once and may have {{titles}} once.",
            field="prompt_template",
            value=template,
        )
    if names == ["history", "titles"]:
        raise InputError(
            f"prompt_template={template!r} has {{titles}} behind {{history}}.",
            remedy="Put it before {history}.",
            field="prompt_template",
            value=template,
        )
    return (text[0], text[2], text[4]) if "titles" in names else (text[0], None, text[2])


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def _left_padded(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")
