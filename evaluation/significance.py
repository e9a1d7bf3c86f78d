"""Whether one method ranks better than another for the same users. Pure functions of numpy arrays."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from catalog.errors import InputError

RESAMPLES = 9_999


class PairedTest(NamedTuple):
    """A method against the baseline, in the metric's unit; both p-values are two-sided.

    The interval is of 95 %. `holm_...` is the p-value after Holm's correction over all methods of the comparison.
    """

    difference: float
    low: float
    high: float
    p_bootstrap: float
    holm_bootstrap: float
    p_wilcoxon: float
    holm_wilcoxon: float


def paired_tests(methods: Mapping[str, np.ndarray], baseline: np.ndarray, seed: int = 0) -> dict[str, PairedTest]:
    """Every method against the baseline, by one metric.

    Args:
        methods: method -> the metric of every user, `[users]`, the same users in the same order as the baseline's.
        baseline: the metric of every user, `[users]`, at least two.
        seed: of the bootstrap; each method is resampled with the same users.

    Raises:
        InputError: a method has another number of users than the baseline.
    """
    differences = {name: _difference(name, values, baseline) for name, values in methods.items()}
    intervals = {name: bootstrap(difference, seed) for name, difference in differences.items()}
    wilcoxon = {name: wilcoxon_p(difference) for name, difference in differences.items()}
    holm_bootstrap = holm(np.array([p for _, _, p in intervals.values()]))
    holm_wilcoxon = holm(np.array(list(wilcoxon.values())))
    tests = {}
    for place, name in enumerate(differences):
        low, high, p = intervals[name]
        tests[name] = PairedTest(
            difference=float(differences[name].mean()),
            low=low,
            high=high,
            p_bootstrap=p,
            holm_bootstrap=float(holm_bootstrap[place]),
            p_wilcoxon=wilcoxon[name],
            holm_wilcoxon=float(holm_wilcoxon[place]),
        )
    return tests


def bootstrap(difference: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """The 95 % percentile interval of the mean of `[users]` differences over resampled users, and its p-value.

    p is twice the share of resampled means on the other side of 0, the sample itself counted as one of them.
    """
    found = stats.bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, batch=1_000, method="percentile", rng=np.random.default_rng(seed)
    )
    means, interval = found.bootstrap_distribution, found.confidence_interval
    crossing = min((means <= 0).sum(), (means >= 0).sum())
    return float(interval.low), float(interval.high), min(1.0, 2 * (crossing + 1) / (RESAMPLES + 1))


def wilcoxon_p(difference: np.ndarray) -> float:
    """p of Wilcoxon's signed-rank test on `[users]` differences; 1 where all are 0.

    Users without a difference are ranked with the others and then left out (Pratt): most users are hit by neither of
    two methods.
    """
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference, zero_method="pratt", method="asymptotic").pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values `[tests]`: the chance of one false finding among all stays below p."""
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)  # the smallest p times the number of tests, the next times one less
    return np.maximum.accumulate(scaled).clip(max=1.0)[np.argsort(order)]


def _difference(name: str, values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    if values.shape != baseline.shape:
        raise InputError(
            f"{name} has {len(values)} users, the baseline {len(baseline)}.",
            remedy="Evaluate them on the same.",
            field=name,
        )
    # averages over seeds are sums of thirds: without rounding a tie would be a difference of 1e-17
    return (values - baseline).round(12)
