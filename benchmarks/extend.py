"""Seconds in which a catalog grows by one item in a hundred, as `semantic_ids.extend` does it.

python benchmarks/extend.py [--items 12000,1000000 --repeats 5]

Items are Gaussian vectors around the sums of random centroids, three levels of 256. An item whose semantic ID is taken
gets the nearest free one, as among real items.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from common import arguments

from catalog import Catalog
from evaluation.markdown import markdown_rows
from semantic_ids import Codebooks, extend

LEVELS, CODES, WIDTH = 3, 256, 64
NOISE = 0.1
"""Of the vectors, around centroids that are shorter by half from level to level."""


def make(items: int) -> tuple[Catalog, Codebooks, Callable[[int], np.ndarray]]:
    """A catalog with its codebooks, and what draws further vectors [n, WIDTH] from where its own come from."""
    rng = np.random.default_rng(0)
    centroids = [rng.normal(size=(CODES, WIDTH)).astype(np.float32) / 2**level for level in range(LEVELS)]

    def draw(count: int) -> np.ndarray:
        centers = sum(level[rng.integers(CODES, size=count)] for level in centroids)
        return centers + NOISE * rng.normal(size=(count, WIDTH)).astype(np.float32)

    codebooks = Codebooks(tuple(map(torch.from_numpy, centroids)))
    catalog = Catalog.from_codes([f"item{n}" for n in range(items)], codebooks.codes(draw(items)))
    return catalog, codebooks, draw


def measure(items: int, repeats: int) -> list[str]:
    """A line of the table: how many are new and how long it takes, each time with other vectors."""
    catalog, codebooks, draw = make(items)
    ids = [f"new{n}" for n in range(items // 100)]
    wall, cpu = [], []
    for _ in range(repeats):
        vectors = draw(len(ids))
        started = time.perf_counter(), time.process_time()
        grown = extend(catalog, codebooks, ids, vectors)
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    assert len(grown) == items + len(ids)
    return [f"{items:,}", f"{len(ids):,}", *(f"{np.median(seconds):.2f}" for seconds in (wall, cpu))]


def main() -> None:
    args = arguments(__doc__, items="12000,1000000", repeats=5)
    rows = [measure(int(items), args.repeats) for items in args.items.split(",")]
    print(markdown_rows(["items", "new", "median s", "median CPU s"], rows))


if __name__ == "__main__":
    main()
