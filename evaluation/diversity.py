"""How varied the recommendations are over all users: a gain in accuracy can hide a narrowing."""

import numpy as np

from catalog.errors import InputError


def diversity_metrics(
    ranked: np.ndarray, item_popularity: np.ndarray, first_codes: np.ndarray, k: int = 10
) -> dict[str, float]:
    """Variety of the first k places of all lists together.

    - `coverage@k`: share of the catalog's items that appear in some list, in [0, 1]
    - `gini@k`: Gini coefficient of how often each catalog item is recommended; 0 = all equally often,
      1 - 1/items = a single item
    - `first_code_coverage@k`: share of the first codes in use that appear in some list, in [0, 1]
    - `popularity@k`: mean training count of the recommended items divided by the mean training count of the
      catalog; 1 = as popular as an item drawn at random, 5 = five times as popular

    Args:
        ranked: items from best to worst, `[users, >= k]` int; -1 pads a short list.
        item_popularity: how often each item occurs in the training part, `[items]`, not all zero.
        first_codes: first code of every item's semantic ID, `[items]`.
        k: places of each list that count.

    Raises:
        InputError: the lists are shorter than k, or hold nothing but padding.
    """
    if ranked.shape[1] < k:
        raise InputError(f"The first {k} places are asked for but the lists hold {ranked.shape[1]}.", remedy="Lower k.")
    items = len(item_popularity)
    top = ranked[:, :k]
    counts = np.bincount(top[top >= 0], minlength=items)  # [items]
    if not counts.any():
        raise InputError(
            "No list holds an item, so its variety is undefined.", remedy="Check the ranking that was passed."
        )
    shown = counts > 0  # [items]
    return {
        f"coverage@{k}": float(shown.mean()),
        f"gini@{k}": gini(counts),
        f"first_code_coverage@{k}": len(np.unique(first_codes[shown])) / len(np.unique(first_codes)),
        f"popularity@{k}": float(np.average(item_popularity, weights=counts) / item_popularity.mean()),
    }


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts `[n]`, not all zero, in [0, 1 - 1/n].

    G = sum_i (2 i - n - 1) x_i / (n sum_i x_i)    with x ascending and i = 1..n
    """
    n = len(counts)
    weights = 2 * np.arange(1, n + 1) - n - 1  # [n]
    return float(weights @ np.sort(counts) / (n * counts.sum()))
