"""How high the target stands in each user's ranked list. Pure functions of numpy arrays.

With one target per user, recall@k equals hit rate@k, and the ideal DCG is 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from catalog.errors import InputError

EVAL_K = (1, 5, 10, 50)
"""The cut-offs where none are given."""
DEFAULT_NDCG = (5, 10)
"""Those of them that NDCG has: a table without a choice of columns stays narrow."""
KINDS = ("recall", "ndcg", "mrr")
"""What their names begin with."""


def ranking_names(eval_k: Sequence[int]) -> list[str]:
    """The metrics at these cut-offs: recall of all, NDCG of those above 1, MRR of the largest.

    NDCG@1 is recall@1, and of the default cut-offs NDCG has `DEFAULT_NDCG`. MRR has one cut-off, so that lists of other
    lengths never have one under the same name.
    """
    cutoffs = sorted(eval_k)
    discounted = DEFAULT_NDCG if tuple(cutoffs) == EVAL_K else [k for k in cutoffs if k > 1]
    return [*(f"recall@{k}" for k in cutoffs), *(f"ndcg@{k}" for k in discounted), f"mrr@{cutoffs[-1]}"]


def check_cutoffs(eval_k: Sequence[int], beam_width: int | None = None) -> list[int]:
    """The cut-offs in ascending order. beam_width: how long the ranked lists are, None where no beam finds them.

    Raises:
        InputError: a cut-off is below 1 or given twice, there is none, or the lists are shorter than the largest.
    """
    if min(eval_k, default=0) < 1 or len(set(eval_k)) < len(eval_k):
        raise InputError(
            f"eval_k={list(eval_k)}: give at least one cut-off, each at least 1 and once.",
            field="eval_k",
            value=eval_k,
        )
    least = max(eval_k)
    if beam_width is not None and beam_width < least:
        raise InputError(
            f"beam_width={beam_width}: it must be at least {least} for recall@{least}.",
            remedy="Raise it, or leave the longer lists out of eval_k.",
            field="beam_width",
            value=beam_width,
        )
    return sorted(eval_k)


def common_cutoffs(eval_k: Mapping[str, Sequence[int]]) -> list[int]:
    """The cut-offs that all have, in ascending order. eval_k: what was measured -> its cut-offs.

    Raises InputError where there is none.
    """
    common: list[int] = []
    for number, (name, cutoffs) in enumerate(eval_k.items()):
        before, common = common, sorted({*cutoffs} & {*common} if number else {*cutoffs})
        if not common:
            raise InputError(
                f"{name} is measured at the cut-offs {sorted(cutoffs)} and {next(iter(eval_k))} at {before}: they have "
                "none in common.",
                remedy="Evaluate them with the same eval_k, or give the comparison one.",
                field="eval_k",
                value=sorted(cutoffs),
            )
    return common


def main_cutoff(eval_k: Sequence[int]) -> int:
    """The cut-off that stands for all where one number must do: 10, or the nearest to it."""
    return min(sorted(eval_k), key=lambda k: abs(k - 10))


def ranking_metrics(ranked: np.ndarray, target: np.ndarray, eval_k: Sequence[int] = EVAL_K) -> dict[str, np.ndarray]:
    """Ranking metrics of every user, each `[users]`, so that methods can be compared user by user.

    With r the place of the target in the list, counted from 1, and r = infinity when it is absent:
    recall@k = [r <= k],  ndcg@k = [r <= k] / log2(r + 1),  mrr@k = [r <= k] / r.

    Args:
        ranked: items from best to worst, `[users, length]` int; -1 pads a short list.
        target: the held-out item, `[users]` int, >= 0.
        eval_k: the cut-offs, at most the lists' length; see `ranking_names` for the metrics they give.

    Raises:
        InputError: the lists are too short for the largest cut-off, or the targets do not fit them.
    """
    if ranked.shape[1] < max(eval_k):
        raise InputError(
            f"recall@{max(eval_k)} needs lists of at least {max(eval_k)} items but they hold {ranked.shape[1]}.",
            remedy=f"Raise the beam width to {max(eval_k)} or more, or leave it out of eval_k.",
        )
    if target.shape != ranked.shape[:1] or (target < 0).any():
        raise InputError(
            f"{len(ranked)} ranked lists need as many targets, none negative (-1 is padding), but the targets have "
            f"shape {target.shape}.",
            remedy="Drop users without a held-out item first.",
        )
    hit = ranked == target[:, None]  # [users, length]
    place = np.where(hit.any(1), hit.argmax(1) + 1.0, np.inf)  # [users]
    gain = {"recall": np.ones_like(place), "ndcg": 1 / np.log2(place + 1), "mrr": 1 / place}
    metrics = {}
    for name in ranking_names(eval_k):
        kind, _, k = name.partition("@")
        metrics[name] = np.where(place <= int(k), gain[kind], 0.0)
    return metrics


def without(ranked: np.ndarray, histories: Sequence[Sequence[int]]) -> np.ndarray:
    """Ranked lists `[users, length]` without the items of as many histories, in their order; -1 pads them."""
    lengths = [len(history) for history in histories]
    seen = np.fromiter((item for history in histories for item in history), np.int64, sum(lengths))  # [events]
    items = max(int(ranked.max(initial=0)), int(seen.max(initial=0))) + 1
    users = np.arange(len(ranked))
    gone = np.isin(users[:, None] * items + ranked, np.repeat(users, lengths) * items + seen) | (ranked < 0)
    order = np.argsort(gone, axis=1, kind="stable")  # [users, length]
    return np.take_along_axis(np.where(gone, -1, ranked), order, axis=1)


def mean_metrics(per_user: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean over users of every metric, each `[users]` -> one number."""
    return {name: float(values.mean()) for name, values in per_user.items()}
