"""A decoder-only backbone seen through the trie."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig

from catalog.errors import InputError
from interactions.prompts import PromptBatch
from policy.base import CachedBranches, PathLogProbs, TriePolicy, compute_dtype, unwrap_model
from policy.tree import additive_mask, branch_visibility, prompt_positions


class CausalPolicy(TriePolicy):
    """P_F of any causal LM of transformers: a prompt and the branches that grow from it are one row."""

    def log_probs(
        self, prompts: PromptBatch, items: Tensor, *, history: bool = False, children: bool = False
    ) -> PathLogProbs:
        """Log-probabilities of K items [B, K] per prompt from one forward of P + K (L - 1) tokens per row.

        The prompt is computed once; each item is a branch that reads the prompt and itself. With `history` the same
        forward also gives every item of the history as the next item after those before it, with `children` every
        child of the nodes on the paths.
        """
        (batch, count), (_, length) = items.shape, prompts.input_ids.shape
        path = self.trie.path(items)  # [B, K, L + 1]
        branch = self.tokens[path[..., 1:-1]]  # [B, K, L - 1]; the last code is never read
        steps = branch.shape[-1]
        depth = torch.arange(steps, device=items.device).expand(batch, count, steps)
        position = prompt_positions(prompts.attention_mask)
        if count == 1:  # a plain causal row needs no 4-D mask, so any attention kernel will do
            mask = torch.cat([prompts.attention_mask, prompts.attention_mask.new_ones(batch, steps)], 1)
        else:
            visible = branch_visibility(prompts.attention_mask, count, steps)
            mask = additive_mask(visible, compute_dtype(self.model))
        known = prompts.history.shape[1] if history else 0
        columns = self._columns(length, prompts.after, known, count)
        with self._reading(partial(torch.split, split_size_or_sections=list(map(len, columns)), dim=1)) as found:
            output = self.model(
                input_ids=torch.cat([prompts.input_ids, branch.flatten(1)], 1),
                attention_mask=mask,
                position_ids=torch.cat([position, (position[:, -1:, None] + 1 + depth).flatten(1)], 1),
                logits_to_keep=torch.cat(columns),  # nowhere else, since a head is large
                use_cache=False,
            )
        logits = found.logits(output.logits)
        ours = self._paths(
            [part[:, known:] for part in logits],
            [part[:, known:] for part in found.states],
            path,
            children,
            found.of_codes,
        )
        if not history:
            return ours
        before = self.trie.path(prompts.history.clamp(min=0))
        log_pf, child = self.path_log_probs([part[:, :known] for part in logits], before, of_codes=found.of_codes)
        return replace(ours, log_pf_history=log_pf, child_log_pf_history=self.pad_stack(child) if children else None)

    def _columns(self, length: int, after: int, known: int, count: int) -> list[Tensor]:
        """The columns of a row after which codes are predicted, for each level: L times [known + 1 or known + K].

        length: tokens of a prompt, `after` of them behind the history's codes; known: how many items of the history are
        predicted; count: K.
        """
        levels, place = self.trie.levels, self.tokens.device
        first = length - after - 1 - known * levels  # one before the first code
        codes = (first + torch.arange(known * levels, device=place)).view(known, levels)
        branches = length + torch.arange(count * (levels - 1), device=place).view(count, levels - 1)
        ends = [torch.arange(length - 1, length, device=place), *branches.unbind(1)]
        return [torch.cat(pair) for pair in zip(codes.unbind(1), ends, strict=True)]

    def naive_log_probs(self, prompts: PromptBatch, items: Tensor) -> Tensor:
        (batch, count), path = items.shape, self.trie.path(items)
        branch = self.tokens[path[..., 1:-1]].flatten(0, 1)  # [B * K, L - 1]
        mask = torch.cat([prompts.attention_mask.repeat_interleave(count, 0), torch.ones_like(branch)], 1)
        logits = self.model(
            input_ids=torch.cat([prompts.input_ids.repeat_interleave(count, 0), branch], 1),
            attention_mask=mask,
            position_ids=prompt_positions(mask),
            logits_to_keep=self.trie.levels,
            use_cache=False,
        ).logits
        return self.path_log_probs(logits.unflatten(0, (batch, count)).unbind(-2), path)[0]

    def _read(self, prompts: PromptBatch) -> tuple[Tensor, CachedBranches]:
        output = self.model(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            position_ids=prompt_positions(prompts.attention_mask),
            logits_to_keep=1,
            use_cache=True,
        )
        return output.logits, RowBranches(self.model, prompts.attention_mask, output.past_key_values)


def attention_window(config: PreTrainedConfig) -> int | None:
    """How many tokens the layers with the shortest attention read back; None where all read everything."""
    if "local" in getattr(config, "attention_layers", ()):  # GPT-Neo
        return config.window_size
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    sliding = "sliding_attention" in kinds or (not kinds and getattr(config, "use_sliding_window", window is not None))
    return window if sliding else None


class RowBranches(CachedBranches):
    """Branches that go on in the row of their prompt.

    Raises InputError where the row no longer fits the backbone's attention window, whose cache then drops tokens.
    """

    def __init__(self, model: nn.Module, attention_mask: Tensor, cache: Cache) -> None:
        super().__init__(attention_mask, cache)
        self.model, self.window = model, attention_window(unwrap_model(model).config)
        self.end = attention_mask.sum(1, keepdim=True)  # [B, 1], position of a branch's first token

    def _forward(self, tokens: Tensor, depth: Tensor, visible: Tensor) -> Tensor:
        row = self.prompt.shape[1] + visible.shape[-1]
        if self.window is not None and row >= self.window:
            raise InputError(
                f"The backbone has attention windows of {self.window} tokens, and a prompt with its branches {row}.",
                remedy="Draw fewer trajectories, lower beam_width or max_history, or choose full attention.",
            )
        prompt = self.prompt.unsqueeze(1).expand(-1, tokens.shape[1], -1)
        return self.model(
            input_ids=tokens,
            attention_mask=additive_mask(torch.cat([prompt, visible], -1), compute_dtype(self.model)),
            position_ids=self.end + depth,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
