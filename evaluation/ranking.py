"""How high the target stands in each user's ranked list. Pure functions of numpy arrays.

With one target per user, recall@k equals hit rate@k, and the ideal DCG is 1.
"""

import numpy as np

from catalog.errors import InputError

RECALL_CUTOFFS = (1, 5, 10, 50)
NDCG_CUTOFFS = (5, 10)
MRR_CUTOFF = 50
"""The places that count in lists of any length, so that methods compare."""


def ranking_metrics(ranked: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Ranking metrics of every user, each `[users]`, so that methods can be compared user by user.

    With r the place of the target in the list, counted from 1, and r = infinity when it is absent:
    recall@k = [r <= k],  ndcg@k = [r <= k] / log2(r + 1),  mrr@k = [r <= k] / r.

    Args:
        ranked: items from best to worst, `[users, k]` int with k >= 50; -1 pads a short list.
        target: the held-out item, `[users]` int, >= 0.

    Raises:
        InputError: the lists are too short for recall@50, or the targets do not fit them.
    """
    if ranked.shape[1] < max(RECALL_CUTOFFS):
        raise InputError(
            f"recall@{max(RECALL_CUTOFFS)} needs lists of at least {max(RECALL_CUTOFFS)} items but they hold "
            f"{ranked.shape[1]}.",
            remedy=f"Raise the beam width to {max(RECALL_CUTOFFS)} or more.",
        )
    if target.shape != ranked.shape[:1] or (target < 0).any():
        raise InputError(
            f"{len(ranked)} ranked lists need as many targets, none negative (-1 is padding), but the targets have "
            f"shape {target.shape}.",
            remedy="Drop users without a held-out item first.",
        )
    hit = ranked == target[:, None]  # [users, k]
    place = np.where(hit.any(1), hit.argmax(1) + 1.0, np.inf)  # [users]
    metrics = {f"recall@{k}": (place <= k).astype(float) for k in RECALL_CUTOFFS}
    metrics |= {f"ndcg@{k}": (place <= k) / np.log2(place + 1) for k in NDCG_CUTOFFS}
    return metrics | {f"mrr@{MRR_CUTOFF}": (place <= MRR_CUTOFF) / place}


def mean_metrics(per_user: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean over users of every metric, each `[users]` -> one number."""
    return {name: float(values.mean()) for name, values in per_user.items()}
