"""Trie-constrained sampling: ours against transformers' generate with a prefix_allowed_tokens_fn.

python benchmarks/sampler.py
"""

import json

import numpy as np
import torch
from common import alternate, arguments, by_generate, make_catalog, make_policy, make_prompts, table
from torch import Tensor

from catalog import Trie, code_of_token


def valid_share(trie: Trie, codes: Tensor) -> float:
    """Share of code sequences [..., L] that are semantic IDs of the catalog."""
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
    sample = by_generate(policy, prompts, args.samples)
    code = code_of_token(builder.tokens, trie, policy.model.config.vocab_size)

    def ours() -> Tensor:
        return trie.codes(policy.sample(prompts, args.samples, torch.Generator().manual_seed(0))[0])

    def generate() -> Tensor:
        return code[sample()].unflatten(0, (args.prompts, args.samples))

    shares = valid_share(trie, ours()), valid_share(trie, generate())
    seconds = alternate(ours, generate, args.repeats)
    print(
        f"{args.prompts} prompts of {prompts.input_ids.shape[1]} tokens, {args.samples} samples each, "
        f"{args.items:,} items"
    )
    print(table(*seconds, ("ours", "generate")))
    print(f"valid: ours {shares[0]:.2%}, generate {shares[1]:.2%}")
    speedup = float(np.median(np.array(seconds[1]) / np.array(seconds[0])))
    print(json.dumps({"speedup": round(speedup, 2), "valid_share": shares[0], "generate_valid_share": shares[1]}))


if __name__ == "__main__":
    main()
