"""What every reported number means and which way is better, in one place for tables, plots and the best checkpoint."""

from typing import Literal, NamedTuple


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
    "recall@1": Metric(RANKING, "Recall@1", "share of users whose held-out item is ranked first", "higher"),
    "recall@5": Metric(RANKING, "Recall@5", "share of users whose held-out item is among the first 5", "higher"),
    "recall@10": Metric(RANKING, "Recall@10", "share of users whose held-out item is among the first 10", "higher"),
    "recall@50": Metric(RANKING, "Recall@50", "share of users whose held-out item is among the first 50", "higher"),
    "ndcg@5": Metric(RANKING, "NDCG@5", "like Recall@5, but place r counts 1 / log2(r + 1): 1, 0.63, 0.5, …", "higher"),
    "ndcg@10": Metric(RANKING, "NDCG@10", "like Recall@10, but place r counts 1 / log2(r + 1)", "higher"),
    "mrr@50": Metric(
        RANKING, "MRR@50", "mean of 1 / place of the held-out item, 0 if it is not among the first 50", "higher"
    ),
    "coverage@10": Metric(VARIETY, "Items", "share of the catalogue that some user is shown", "higher"),
    "first_code_coverage@10": Metric(
        VARIETY, "First codes", "share of the first codes of the semantic IDs that some user is shown", "higher"
    ),
    "gini@10": Metric(
        VARIETY, "Gini", "how unevenly items are shown; 0 = all equally often, near 1 = always the same few", "lower"
    ),
    "popularity@10": Metric(
        VARIETY, "Popularity", "training count of the shown items, as a multiple of the catalogue's mean", None
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
"""Name -> metric. An evaluation during training puts `eval_` before the names; in `entropy_l` l is a level."""
