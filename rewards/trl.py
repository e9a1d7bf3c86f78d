"""Reward functions of TRL: texts in, a list of numbers out."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from catalog import Trajectories, Trie, node_tokens
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from interactions.texts import item_texts, prompt_texts

TAKEN = ("prompt", "completion", "prompts", "completions", "completion_ids")
"""Columns of these names are not passed on: TRL reserves them, and the last three are names of arguments."""

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def is_trl(reward: Any) -> bool:
    """Whether a callable is TRL's kind of reward: it has an argument `completions`, and ours has none."""
    try:
        return "completions" in inspect.signature(reward).parameters
    except (TypeError, ValueError):  # functions written in C may have no signature
        return False


class TRLReward:
    """A reward function of TRL as a reward: `function(prompts, completions, **columns) -> list of B * K numbers`.

    As in TRL's GRPOTrainer all arguments are keywords and lists of B * K, a prompt's K trajectories in a row:

    prompts          texts, the start token and a template's text included
    completions      texts, the trajectory's codes: <a_3><b_7><c_1>
    completion_ids   lists of the L tokens of these
    history, target  what the prompt holds, a list of items, and the item that the user took next, as numbers
    target_text      the target as `completions` would have it
    ...              every further column of the rows: user, rating, ...

    The function gets those that it names, and all of them if it has **kwargs. `trainer_state`, `log_extra` and
    `log_metric` belong to TRL's trainer and are not given. None, which means "does not apply", counts as 0. An async
    function is awaited. Empty slots hold the target, and their values do not count.

    Raises InputError where the function asks for more than there is or returns another number of values.
    """

    def __init__(self, function: Callable[..., Any], trie: Trie, tokenizer: PreTrainedTokenizerBase) -> None:
        self.function, self.trie, self.tokenizer = function, trie, tokenizer
        self.tokens = node_tokens(tokenizer, trie)  # [nodes]
        self.parameters = inspect.signature(function).parameters

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        values = self.function(**self._asked(self._arguments(batch, trajectories)))
        if inspect.isawaitable(values):
            values = asyncio.run_coroutine_threadsafe(_wait(values), _loop()).result()
        if len(values) != trajectories.items.numel():
            raise InputError(
                f"it returned {len(values)} values for {trajectories.items.numel()} completions.",
                remedy="Return one for each.",
            )
        numbers = [0.0 if value is None else float(value) for value in values]
        return torch.tensor(numbers, device=batch.history.device).view(trajectories.items.shape)

    def _arguments(self, batch: PromptBatch, trajectories: Trajectories) -> dict[str, list[Any]]:
        items, count = trajectories.items.flatten().cpu(), trajectories.items.shape[1]
        columns: dict[str, list[Any]] = {
            "prompts": prompt_texts(batch, self.tokenizer),
            "history": batch.item_lists(),
            "target": batch.target.tolist(),
            "target_text": item_texts(batch.target.cpu(), self.trie),
        }
        columns = {name: values for name, values in batch.columns.items() if name not in TAKEN} | columns
        return {
            **{name: [value for value in values for _ in range(count)] for name, values in columns.items()},
            "completions": item_texts(items, self.trie),
            "completion_ids": self.tokens[self.trie.path(items)[:, 1:]].tolist(),
        }

    def _asked(self, given: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Those of the arguments that the function takes."""
        empty, any_keyword = inspect.Parameter.empty, inspect.Parameter.VAR_KEYWORD
        required = [name for name, p in self.parameters.items() if p.kind in NAMED and p.default is empty]
        if missing := [name for name in required if name not in given]:
            raise InputError(
                f"it asks for {missing[0]!r}, but there are only {sorted(given)}.",
                remedy="Add the column to the rows, or give the argument a default.",
            )
        if any(p.kind is any_keyword for p in self.parameters.values()):
            return dict(given)
        return {name: values for name, values in given.items() if name in self.parameters}


async def _wait(values: Awaitable[Any]) -> Any:
    return await values


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for all calls, since a function's open connections are bound to it.

    It runs in a thread, since a notebook already runs a loop in the main one.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="async-rewards", daemon=True).start()
    return loop
