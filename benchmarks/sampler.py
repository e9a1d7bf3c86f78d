"""Trie-constrained sampling: ours against transformers' generate with a prefix_allowed_tokens_fn.

python benchmarks/sampler.py
"""

import json

import numpy as np
import torch
from common import alternate, arguments, make_catalog, make_policy, make_prompts, table
from torch import Tensor
from transformers import GenerationConfig

from catalog import Trie


def valid_share(trie: Trie, codes: Tensor) -> float:
    """Share of code sequences [..., L] that are semantic IDs of the catalogue."""
    return (trie.leaf(codes) >= 0).float().mean().item()


def main() -> None:
    args = arguments(
        __doc__,
        prompts=64,
        prompt_items=16,
        samples=16,
        levels=4,
        hidden=128,
        layers=4,
        items=12_000,
        repeats=3,
        threads=2,
    )
    torch.set_num_threads(args.threads)
    catalog = make_catalog(args.items, args.levels, 256)
    policy, builder = make_policy(catalog, args.hidden, args.layers, args.prompt_items)
    trie, prompts = catalog.trie, make_prompts(builder, catalog, args.prompts, args.prompt_items)
    length = prompts.input_ids.shape[1]
    children: dict[tuple[int, ...], list[int]] = {}
    for path in builder.tokens[trie.path(torch.arange(len(catalog)))[:, 1:]].tolist():
        for level, token in enumerate(path):
            following = children.setdefault(tuple(path[:level]), [])
            if token not in following:
                following.append(token)
    how = GenerationConfig(
        do_sample=True,
        max_new_tokens=args.levels,
        min_new_tokens=args.levels,
        top_k=0,
        top_p=1.0,
        num_return_sequences=args.samples,
        pad_token_id=builder.pad,
    )

    def ours() -> Tensor:
        return trie.codes(policy.sample(prompts, args.samples, torch.Generator().manual_seed(0))[0])

    def generate() -> Tensor:
        tokens = policy.model.generate(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            generation_config=how,
            prefix_allowed_tokens_fn=lambda _, row: children[tuple(row[length:].tolist())],
        )[:, length:]
        first = torch.tensor([0, *trie.sizes[:-1]]).cumsum(0) + int(builder.tokens[1] - trie.code(torch.tensor(1)))
        return (tokens - first).unflatten(0, (args.prompts, args.samples))

    shares = valid_share(trie, ours()), valid_share(trie, generate())
    seconds = alternate(ours, generate, args.repeats)
    print(f"{args.prompts} prompts of {length} tokens, {args.samples} samples each, {args.items:,} items")
    print(table(*seconds, ("ours", "generate")))
    print(f"valid: ours {shares[0]:.2%}, generate {shares[1]:.2%}")
    speedup = float(np.median(np.array(seconds[1]) / np.array(seconds[0])))
    print(json.dumps({"speedup": round(speedup, 2), "valid_share": shares[0], "generate_valid_share": shares[1]}))


if __name__ == "__main__":
    main()
