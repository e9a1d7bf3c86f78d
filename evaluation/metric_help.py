"""What every reported number means and which way is better, in one place for tables, plots and the best checkpoint."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from catalog.errors import InputError


class Metric(NamedTuple):
    """A number of an evaluation. `better` is None where neither direction is an aim; `form` is how it is printed."""

    group: str
    heading: str
    meaning: str
    better: Literal["higher", "lower"] | None
    form: str = ".4f"


RANKING = "Ranking of the held-out item"
VARIETY = "Variety of the top 10"
MATCH = "Match of P_F and R / Z"
CODES = "Choice of a code"
COST = "Cost"

METRIC_HELP = {
    "recall@k": Metric(RANKING, "Recall@k", "share of users whose held-out item is at place k or better", "higher"),
    "ndcg@k": Metric(RANKING, "NDCG@k", "like Recall@k, but place r counts 1 / log2(r + 1): 1, 0.63, 0.5, …", "higher"),
    "mrr@k": Metric(
        RANKING, "MRR@k", "mean of 1 / place of the held-out item, 0 if it is not among the first k", "higher"
    ),
    "coverage@10": Metric(VARIETY, "Items", "share of the catalog that some user is shown", "higher"),
    "first_code_coverage@10": Metric(
        VARIETY, "First codes", "share of the first codes of the semantic IDs that some user is shown", "higher"
    ),
    "gini@10": Metric(
        VARIETY, "Gini", "how unevenly items are shown; 0 = all equally often, near 1 = always the same few", "lower"
    ),
    "popularity@10": Metric(
        VARIETY, "Popularity", "training count of the shown items, as a multiple of the catalog's mean", None
    ),
    "tv": Metric(MATCH, "TV", "total variation between P_F and R / Z over all items; 0 = equal, 1 = apart", "lower"),
    "kl": Metric(MATCH, "KL", "KL(R / Z || P_F) over all items, in nats", "lower"),
    "reward_correlation": Metric(MATCH, "r", "correlation of log R and log P_F over all items", "higher"),
    "effective_items": Metric(
        MATCH, "Effective items", "exp of the entropy of the policy's choice of an item", None, ".1f"
    ),
    "target_effective_items": Metric(
        MATCH, "of R / Z", "the same of R / Z, which a policy that matches has too", None, ".1f"
    ),
    "entropy_l": Metric(CODES, "Entropy", "mean entropy of the policy's choice of the l-th code, in nats", None),
    "seconds": Metric(COST, "Seconds", "seconds of training, evaluations included", "lower", ",.0f"),
    "tokens": Metric(COST, "Tokens", "prompt and trajectory tokens of the forwards trained on", "lower", ",.0f"),
    "peak_memory_mb": Metric(
        COST,
        "Peak memory",
        "largest resident memory of a process, GPU memory where there is one, in MiB",
        "lower",
        ",.0f",
    ),
}
"""Name -> what it is, see `metric_help`. An evaluation during training says `eval_` before them; `l` is a level."""


def metric_help(name: str) -> Metric:
    """What a metric is; `recall@7` is what `METRIC_HELP` calls `recall@k`. Raises InputError for one it lacks."""
    found = METRIC_HELP.get(kind := _kind(name))
    if found is None:
        raise InputError(f"Metrics without an explanation: {[name]}.", remedy="Add them to METRIC_HELP.")
    if kind == name:
        return found
    heading, meaning = (re.sub(r"\bk\b", name.rpartition("@")[2], text) for text in (found.heading, found.meaning))
    return found._replace(heading=heading, meaning=meaning)


def in_order(names: Iterable[str]) -> list[str]:
    """Metrics in the order of `METRIC_HELP`, those of a kind by their cut-offs. Raises InputError for unknown ones."""
    names = set(names)
    if unknown := sorted(name for name in names if _kind(name) not in METRIC_HELP):
        raise InputError(f"Metrics without an explanation: {unknown}.", remedy="Add them to METRIC_HELP.")
    kinds = list(METRIC_HELP)
    return sorted(names, key=lambda name: (kinds.index(_kind(name)), len(name), name))


def _kind(name: str) -> str:
    """The name under which `METRIC_HELP` has a metric: `recall@k` of `recall@7`."""
    return name if name in METRIC_HELP else re.sub(r"@[1-9]\d*$", "@k", name)
