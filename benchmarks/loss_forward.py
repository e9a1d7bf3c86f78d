"""Forward and backward of a loss whose head computes the codes' logits alone, against those of the whole vocabulary.

python benchmarks/loss_forward.py [--normalization vocabulary]

Both sides run in turn in one process, of one model whose vocabulary is that of a pretrained one: first whether their
log-probabilities and gradients agree, then CPU seconds, then the allocator's peak above the weights and gradients.
"""

import json
import time
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import torch
from common import arguments, make_catalog, make_prompts, peak
from torch import Tensor
from torch.profiler import profile
from transformers import Qwen3Config, Qwen3ForCausalLM

from catalog import word_tokenizer
from evaluation.markdown import markdown_rows
from interactions import PromptBuilder
from policy import CausalPolicy


def measure(vocabulary: int, repeats: int, shape: dict[str, int], full_vocabulary: bool) -> dict[str, float]:
    """The largest differences, and the medians of whole / codes of CPU time and of the memory's peak."""
    catalog = make_catalog(12_000, shape["levels"], 256)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=shape["hidden"],
            intermediate_size=3 * shape["hidden"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=shape["hidden"] // 8,
            tie_word_embeddings=True,
        )
    )
    builder = PromptBuilder(catalog, word_tokenizer(catalog.trie.sizes), shape["prompt_items"])
    prompts = make_prompts(builder, catalog, shape["prompts"], shape["prompt_items"])
    policy = CausalPolicy(model, catalog.trie, builder.tokens, full_vocabulary=full_vocabulary)
    items = torch.randint(len(catalog), (shape["prompts"], shape["branches"]))
    for parameter in model.parameters():  # what optimizers keep anyway is not counted
        parameter.grad = torch.zeros_like(parameter)

    def step(whole: bool) -> Tensor:
        with patch.multiple("policy.head", _is_plain=lambda head: False) if whole else nullcontext():
            found = policy.log_probs(prompts, items, history=True)
        known = found.log_pf_history.where(prompts.history.unsqueeze(-1) >= 0, 0.0)
        (found.log_pf.sum(-1).square().mean() + known.mean()).backward()
        return torch.cat([found.log_pf.flatten(), known.flatten()]).detach()

    sides: list[tuple[Tensor, list[Tensor]]] = []
    for whole in (False, True):
        model.zero_grad(set_to_none=False)
        log_pf = step(whole)
        sides.append((log_pf, [p.grad.clone() for p in model.parameters()]))
    (ours, mine), (theirs, others) = sides
    scale = max(g.abs().max().item() for g in others)
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for side in (False, True):
            started = time.process_time()
            step(side)
            if turn:
                seconds[side].append(time.process_time() - started)
    peaks = []
    for side in (False, True):
        with profile(profile_memory=True) as profiler:
            step(side)
        peaks.append(peak(profiler) / 2**20)
    return {
        "difference": (ours - theirs).abs().max().item(),
        "gradient_difference": max((a - b).abs().max().item() for a, b in zip(mine, others, strict=True)) / scale,
        "seconds": float(np.median(seconds[0])),
        "whole_seconds": float(np.median(seconds[1])),
        "times_faster": float(np.median(np.array(seconds[1]) / np.array(seconds[0]))),
        "peak_mib": peaks[0],
        "whole_peak_mib": peaks[1],
        "times_less": peaks[1] / peaks[0],
    }


def main() -> None:
    args = arguments(
        __doc__,
        prompts=6,
        prompt_items=16,
        branches=8,
        levels=4,
        hidden=128,
        layers=2,
        repeats=2,
        threads=1,
        normalization="trie",
    )
    torch.set_num_threads(args.threads)
    shape = {
        name: getattr(args, name) for name in ("prompts", "prompt_items", "branches", "levels", "hidden", "layers")
    }
    results = {
        vocabulary: measure(vocabulary, args.repeats, shape, args.normalization == "vocabulary")
        for vocabulary in (32_000, 152_000)
    }
    heads = ["vocabulary", "CPU s, codes", "whole", "times faster"]
    heads += ["peak MiB, codes", "whole", "times less", "log P_F differs by", "gradient by, of the largest"]
    rows = [
        [f"{vocabulary:,}", f"{r['seconds']:.2f}", f"{r['whole_seconds']:.2f}", f"{r['times_faster']:.1f}"]
        + [f"{r['peak_mib']:.0f}", f"{r['whole_peak_mib']:.0f}", f"{r['times_less']:.1f}"]
        + [f"{r['difference']:.1e}", f"{r['gradient_difference']:.1e}"]
        for vocabulary, r in results.items()
    ]
    print(markdown_rows(heads, rows))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
