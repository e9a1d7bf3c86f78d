"""A random catalog, prompts and backbone of a stated size, settings, and alternating timing."""

import argparse
import gc
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.profiler import profile
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from catalog import Catalog, word_tokenizer
from evaluation.markdown import markdown_rows
from interactions import PromptBatch, PromptBuilder
from policy import CausalPolicy, TriePolicy


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle() -> None:
    """Wait until a GPU has done what it was asked for, so that its time is measured with the call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def arguments(description: str | None, **defaults: int | str) -> argparse.Namespace:
    """Numbers and names from the command line, each with its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def make_catalog(items: int, levels: int, width: int) -> Catalog:
    """Distinct random semantic IDs."""
    codes = np.random.default_rng(0).integers(0, width, (2 * items, levels))
    keys = np.unique(np.ravel_multi_index(tuple(codes.T), (width,) * levels))  # far less memory than of rows
    codes = np.stack(np.unravel_index(np.random.default_rng(1).permutation(keys)[:items], (width,) * levels), 1)
    return Catalog.from_codes([str(i) for i in range(items)], codes, sizes=(width,) * levels)


def make_policy(
    catalog: Catalog, hidden: int, layers: int, history: int, heads: int = 8, widening: int = 4
) -> tuple[CausalPolicy, PromptBuilder]:
    """A new Qwen3 seen through the catalog's trie, on the CPU."""
    tokenizer: PreTrainedTokenizerFast = word_tokenizer(catalog.trie.sizes)
    torch.manual_seed(0)
    model: PreTrainedModel = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=widening * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=2,
            head_dim=hidden // heads,
            max_position_embeddings=4096,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=None,
        )
    )
    builder = PromptBuilder(catalog, tokenizer, history)
    return CausalPolicy(model, catalog.trie, builder.tokens), builder


def on_device(policy: CausalPolicy) -> CausalPolicy:
    """The same policy where `device` is."""
    return CausalPolicy(policy.model.to(device()), policy.trie.to(device()), policy.tokens.to(device()))


def make_prompts(builder: PromptBuilder, catalog: Catalog, prompts: int, history: int) -> PromptBatch:
    """Prompts whose histories hold between half of `history` and all of it."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(history // 2, history + 1, prompts)
    lengths[0] = history
    return builder(
        [
            {"history": rng.integers(0, len(catalog), n).tolist(), "target": int(rng.integers(len(catalog)))}
            for n in lengths
        ]
    )


def legal_tokens(policy: TriePolicy) -> dict[tuple[int, ...], list[int]]:
    """The tokens that may follow each prefix of tokens, as a prefix_allowed_tokens_fn usually looks them up."""
    trie = policy.trie
    following: dict[tuple[int, ...], set[int]] = {}
    for path in policy.tokens[trie.path(torch.arange(trie.items))[:, 1:]].tolist():
        for level, token in enumerate(path):
            following.setdefault(tuple(path[:level]), set()).add(token)
    return {prefix: list(tokens) for prefix, tokens in following.items()}


def by_generate(
    policy: TriePolicy,
    prompts: PromptBatch,
    count: int,
    *,
    beams: bool = False,
    legal: dict[tuple[int, ...], list[int]] | None = None,
) -> Callable[[], Tensor]:
    """What one would otherwise run, `count` draws or the best of a beam of `count`: tokens [B * count, L].

    legal: `legal_tokens(policy)`, where it is at hand.
    """
    trie, length = policy.trie, prompts.input_ids.shape[1]
    legal = legal_tokens(policy) if legal is None else legal
    kind: dict[str, Any] = {"num_beams": count} if beams else {"do_sample": True, "top_k": 0, "top_p": 1.0}
    how = GenerationConfig(
        max_new_tokens=trie.levels,
        min_new_tokens=trie.levels,
        num_return_sequences=count,
        pad_token_id=0,
        renormalize_logits=True,
        **kind,
    )

    def generate() -> Tensor:
        return policy.model.generate(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            generation_config=how,
            prefix_allowed_tokens_fn=lambda _, row: legal[tuple(row[length:].tolist())],
        )[:, length:]

    return generate


def alternate(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of each after one warm-up, in turn, so that a drifting machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for side, call in enumerate((ours, theirs)):
            settle()
            started = time.perf_counter()
            call()
            settle()
            if turn:
                seconds[side].append(time.perf_counter() - started)
    return seconds


def peak(profiler: profile) -> int:
    """The highest sum of what was allocated and not yet freed."""
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        highest = max(highest, total)
    return highest


def alive() -> list[Tensor]:
    """Every tensor of the process, and the gradients, which may have no Python object yet."""
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    gradients = [t.grad for t in tensors if t.is_leaf and t.grad is not None]
    return [t.to_local() if isinstance(t, DTensor) else t for t in [*tensors, *gradients]]


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes behind the tensors, shared ones once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.device.type == "cpu"}
    return sum(storages.values())


def table(ours: list[float], theirs: list[float], names: tuple[str, str]) -> str:
    """Minimum, median and maximum seconds of both sides, and the speed-up pair by pair."""
    ratio = np.array(theirs) / np.array(ours)
    rows = [
        [name, f"{min(values):.3f}", f"{np.median(values):.3f}", f"{max(values):.3f}"]
        for name, values in zip(names, (ours, theirs), strict=True)
    ]
    rows.append(["times faster", f"{ratio.min():.1f}", f"{np.median(ratio):.1f}", f"{ratio.max():.1f}"])
    return markdown_rows(["", "min s", "median s", "max s"], rows)
