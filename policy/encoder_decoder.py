"""A T5 seen through the trie: the encoder reads a prompt once, the decoder all its items in one row."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutput

from catalog import Trie
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from policy.base import CachedBranches, PathLogProbs, TriePolicy, compute_dtype, unwrap_model
from policy.tree import additive_mask, branch_visibility

ATTENTION = "sdpa_along_branches"


def attention_along_branches(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_bias: Tensor,
    distance: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA in which a decoder's relative positions are those along a branch, not along the row.

    distance [B, Q, T]: how many codes each of the Q tokens lies below each of the T; read only where it attends to it.
    T5 adds a bias [1, H, Q, T] that depends on the distance in the row alone, so it already holds the value of
    every distance that occurs. Without a distance, and in cross-attention, this is plain SDPA.
    """
    if distance is not None and module.is_causal:
        rows, columns = position_bias.shape[-2:]
        wanted = torch.arange(columns, device=query.device)
        row = (wanted - (columns - rows)).clamp(0, rows - 1)
        column = (row + columns - rows - wanted).clamp(min=0)
        table = position_bias[0, :, row, column]  # [H, T], the bias at every distance
        position_bias = table[:, distance.clamp(0, columns - 1)].transpose(0, 1)  # [B, H, Q, T]
    return sdpa_attention_forward(module, query, key, value, attention_mask, position_bias=position_bias, **kwargs)


AttentionInterface.register(ATTENTION, attention_along_branches)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class EncoderDecoderPolicy(TriePolicy):
    """P_F of a T5, as TIGER has it: the prompt is the encoder's, the codes so far are the decoder's.

    Sets the decoder's attention to `attention_along_branches`. A history is read as a whole, so that one
    forward gives no log-probabilities of its items.
    """

    def __init__(self, model: nn.Module, trie: Trie, tokens: Tensor, *, full_vocabulary: bool = False) -> None:
        super().__init__(model, trie, tokens, full_vocabulary=full_vocabulary)
        backbone = unwrap_model(model)
        backbone.get_decoder().set_attn_implementation(ATTENTION)
        self.start: int = backbone.config.decoder_start_token_id

    def log_probs(
        self, prompts: PromptBatch, items: Tensor, *, history: bool = False, children: bool = False
    ) -> PathLogProbs:
        """Log-probabilities of K items [B, K] per prompt: P tokens in the encoder, 1 + K (L - 1) in the decoder.

        Raises InputError where the history is asked for.
        """
        if history:
            raise InputError("An encoder reads a history as a whole and does not predict its items.")
        batch, count = items.shape
        path = self.trie.path(items)  # [B, K, L + 1]
        branch = self.tokens[path[..., 1:-1]]  # [B, K, L - 1]; the last code is never read
        steps = branch.shape[-1]
        start = self._start(batch)
        depth = torch.arange(1, steps + 1, device=items.device).repeat(1, count)
        depth = torch.cat([depth.new_zeros(1, 1), depth], 1)  # [1, 1 + K (L - 1)]

        def by_level(values: Tensor) -> list[Tensor]:  # [B, 1 + K (L - 1), X]
            return [values[:, :1], *values[:, 1:].unflatten(1, (count, steps)).unbind(2)] if steps else [values]

        with self._reading(by_level) as found:
            output = self.model(
                input_ids=prompts.input_ids,
                attention_mask=prompts.attention_mask,
                decoder_input_ids=torch.cat([start, branch.flatten(1)], 1),
                decoder_attention_mask=self._mask(branch_visibility(torch.ones_like(start), count, steps)),
                distance=depth.unsqueeze(-1) - depth.unsqueeze(1),
                use_cache=False,
            )
        return self._paths(found.logits(output.logits), found.states, path, children, found.of_codes)

    def naive_log_probs(self, prompts: PromptBatch, items: Tensor) -> Tensor:
        (batch, count), path = items.shape, self.trie.path(items)
        branch = self.tokens[path[..., 1:-1]].flatten(0, 1)  # [B * K, L - 1]
        logits = self.model(
            input_ids=prompts.input_ids.repeat_interleave(count, 0),
            attention_mask=prompts.attention_mask.repeat_interleave(count, 0),
            decoder_input_ids=torch.cat([self._start(len(branch)), branch], 1),
            use_cache=False,
        ).logits
        return self.path_log_probs(logits.unflatten(0, (batch, count)).unbind(-2), path)[0]

    def _read(self, prompts: PromptBatch) -> tuple[Tensor, CachedBranches]:
        output = self.model(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            decoder_input_ids=self._start(len(prompts)),
            use_cache=True,
        )
        return output.logits, DecoderBranches(self, prompts, output.encoder_last_hidden_state, output.past_key_values)

    def _start(self, rows: int) -> Tensor:
        return self.tokens.new_full((rows, 1), self.start)

    def _mask(self, visible: Tensor) -> Tensor:
        return additive_mask(visible, compute_dtype(self.model))


class DecoderBranches(CachedBranches):
    """Branches in a decoder whose cross-attention has read the prompt; behind the prompt they share a start token."""

    def __init__(self, policy: EncoderDecoderPolicy, prompts: PromptBatch, encoded: Tensor, cache: Cache) -> None:
        super().__init__(prompts.attention_mask, cache)
        self.policy, self.encoded = policy, encoded
        self.depth = torch.zeros(1, 1, dtype=torch.long, device=encoded.device)  # [1, T] of what is cached

    def _forward(self, tokens: Tensor, depth: Tensor, visible: Tensor) -> Tensor:
        below = depth[:1] + 1
        self.depth = torch.cat([self.depth, below], 1)
        start = visible.new_ones(*visible.shape[:2], 1)
        return self.policy.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoded),  # type: ignore[arg-type]  # Tensor is meant
            attention_mask=self.prompt,
            decoder_input_ids=tokens,
            decoder_attention_mask=self.policy._mask(torch.cat([start, visible], -1)),
            distance=below.unsqueeze(-1) - self.depth.unsqueeze(1),
            past_key_values=self.cache,
            use_cache=True,
        ).logits

    def _forget(self, count: int) -> None:
        self.cache.self_attention_cache.crop(-count)  # type: ignore[attr-defined]
        self.depth = self.depth[:, :-count]
