"""Building and querying the trie at 10 k, 100 k and 1 M items, against a dictionary of prefixes.

python benchmarks/trie.py
"""

import argparse
import json
import time

import numpy as np
import torch

from catalog import Trie
from evaluation.markdown import markdown_rows


def prefixes(codes: np.ndarray) -> dict[tuple[int, ...], set[int]]:
    """What most research code builds: prefix -> legal next codes."""
    table: dict[tuple[int, ...], set[int]] = {}
    for row in codes.tolist():
        for level, code in enumerate(row):
            table.setdefault(tuple(row[:level]), set()).add(code)
    return table


def masks(table: dict[tuple[int, ...], set[int]], rows: list[list[int]], width: int) -> torch.Tensor:
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        mask[i, list(table[tuple(row)])] = True
    return mask


def measure(items: int, levels: int, width: int, rows: int, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, width, (items, levels))
    started = time.perf_counter()
    trie = Trie.build(codes, (width,) * levels)
    figures = {"build_seconds": time.perf_counter() - started, "bytes_per_item": trie.bytes / items}
    started = time.perf_counter()
    table = prefixes(codes)
    figures["dictionary_build_seconds"] = time.perf_counter() - started

    chosen = torch.from_numpy(rng.integers(0, items, rows))
    depth = levels // 2
    nodes = trie.path(chosen)[:, depth]
    keys = codes[chosen.numpy(), :depth].tolist()
    assert torch.equal(trie.mask(nodes), masks(table, keys, width)), "the two do not do the same work"
    ours, theirs = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        trie.mask(nodes)
        middle = time.perf_counter()
        masks(table, keys, width)
        ours.append(middle - started)
        theirs.append(time.perf_counter() - middle)
    figures["mask_us_per_row"] = float(np.median(ours)) / rows * 1e6
    figures["dictionary_mask_us_per_row"] = float(np.median(theirs)) / rows * 1e6
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1024, help="nodes per call of mask")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    results = {items: measure(items, args.levels, args.width, args.rows, args.repeats) for items in args.items}
    names = list(results[args.items[0]])
    rows = [[f"{items:,}", *(f"{figures[name]:.3g}" for name in names)] for items, figures in results.items()]
    print(markdown_rows(["items", *names], rows))
    print(json.dumps({name: {items: figures[name] for items, figures in results.items()} for name in names}))


if __name__ == "__main__":
    main()
