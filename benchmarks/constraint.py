"""What the trie inside vLLM costs a step: which tokens may follow, and the logits of all others.

python benchmarks/constraint.py
python benchmarks/constraint.py --vocabulary 152000 --rows 256

Random semantic IDs. Rows have taken no code, one, and so on up to all but the last, in equal shares, or all of them
none: the first step of every rollout. Milliseconds of one thread, medians. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from catalog import Trie, node_tokens, word_tokenizer
from evaluation.markdown import markdown_rows
from samplers.rollouts.constraint import TrieConstraint


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    call()
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return round(1000 * statistics.median(taken), 2)


def measure(shape: str, items: int, args: argparse.Namespace) -> dict[str, float]:
    """Of one catalog: levels x width, as `shape` says, and so many items."""
    levels, width = map(int, shape.split("x"))
    draw = np.random.default_rng(0)
    trie = Trie.build(draw.integers(0, width, (items, levels)), (width,) * levels)
    tokens = node_tokens(word_tokenizer(trie.sizes), trie)
    vocabulary = max(args.vocabulary, int(tokens.max()) + 1)
    constraint = TrieConstraint(trie, tokens, vocabulary, end=1)
    paths = tokens[trie.path(torch.from_numpy(draw.integers(0, items, args.rows)))[:, 1:-1]]  # [rows, L - 1]
    length = torch.arange(args.rows) % levels
    mixed = paths.where(torch.arange(levels - 1) < length.unsqueeze(1), -1)
    logits = torch.randn(args.rows, vocabulary)
    return {
        "legal": milliseconds(lambda: constraint.legal(mixed), args.repeats),
        "apply": milliseconds(lambda: constraint.apply(logits, mixed), args.repeats),
        "apply, first step": milliseconds(lambda: constraint.apply(logits, torch.full_like(mixed, -1)), args.repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["4x256", "3x1024", "3x4096"], help="levels x width")
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=0, help="words, if more than the codes have")
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {(shape, items): measure(shape, items, args) for shape in args.shapes for items in args.items}
    names = list(next(iter(found.values())))
    rows = [[shape, f"{items:,}", *map(str, figures.values())] for (shape, items), figures in found.items()]
    print(markdown_rows(["codes", "items", *(f"{name}, ms" for name in names)], rows))
    print(json.dumps({f"{shape}, {items}": figures for (shape, items), figures in found.items()}))


if __name__ == "__main__":
    main()
