"""Which backbones there are, and what each is seen through."""

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from catalog import Trie
from catalog.errors import InputError
from policy.base import TriePolicy, unwrap_model
from policy.causal import CausalPolicy, attention_window
from policy.encoder_decoder import EncoderDecoderPolicy

ALIBI = {"mpt", "bloom"}
"""Kinds of backbones that always have ALiBi; others say so in their config's `alibi`."""


def policy_of(model: nn.Module, trie: Trie, tokens: Tensor, *, full_vocabulary: bool = False) -> TriePolicy:
    """The policy of a backbone of either kind, wrapped or not."""
    kind = EncoderDecoderPolicy if unwrap_model(model).config.is_encoder_decoder else CausalPolicy
    return kind(model, trie, tokens, full_vocabulary=full_vocabulary)


def auto_class(config: PreTrainedConfig) -> type[AutoModelForCausalLM] | type[AutoModelForSeq2SeqLM]:
    """Which of transformers' classes makes and loads such a backbone."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def check_backbone(config: PreTrainedConfig, longest: int, branches: int, length: int) -> None:
    """Raise InputError where this backbone would read a 4-D mask silently wrong.

    longest: tokens of the longest prompt, with `branches` branches of `length` tokens each behind it, all at the same
    positions. Sliding-window layers pass a 4-D mask through unchanged, so a row must fit the window; recurrent and
    linear layers take no mask; flash attention takes none of this shape. Of the encoder-decoders only T5 is supported,
    whose bias between tokens can be made to follow a branch.
    """
    if config.is_encoder_decoder:
        if config.model_type != "t5":
            raise InputError(
                f"{config.model_type} is an encoder-decoder other than T5.",
                remedy="Choose a t5 or a decoder-only backbone.",
            )
        return
    row, last = longest + branches * length, longest + length
    if config.model_type in ALIBI or getattr(config, "alibi", False):
        raise InputError(
            f"{config.model_type} has ALiBi, which takes a token's place in the row for its position: branches that "
            "share a prompt would be wrong.",
            remedy="Choose a backbone with rotary or learned positions, for instance qwen3, llama or gpt2.",
            field="backbone",
            value=config.model_type,
        )
    kinds = set(getattr(config, "layer_types", None) or ())
    window = attention_window(config)
    if window is not None and row >= window:
        raise InputError(
            f"{config.model_type} has attention windows of {window} tokens but a row of {row}: branches that share a "
            "prompt would read the wrong tokens.",
            remedy="Lower max_history or choose a backbone with full attention.",
        )
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise InputError(f"{config.model_type} has {sorted(unknown)} layers, which take no mask of shared prompts.")
    if config._attn_implementation not in ("sdpa", "eager"):
        raise InputError(
            f"attn_implementation={config._attn_implementation!r} takes no mask of shared prompts.",
            remedy="Set it to 'sdpa'.",
            field="attn_implementation",
            value=config._attn_implementation,
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and last > positions:
        raise InputError(
            f"A prompt and its branches need {last} positions; {config.model_type} has {positions}.",
            remedy="Lower max_history or raise the backbone's positions.",
        )
