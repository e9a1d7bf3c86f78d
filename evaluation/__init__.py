"""How good the recommendations are, and the page that compares methods.

- `ranking`: recall, NDCG and MRR of the held-out item, per user and on average
- `diversity`: how varied the recommendations are over all users
- `significance`: whether one method is better than another for the same users
- `breakdown`: a metric for groups of users
- `metric_help`: what every reported number means, and which way is better
- `comparison`: all that a page says of some methods; `tables` and `figures` of it
- `report`: the comparison as one HTML page, and as Markdown
"""

from evaluation.breakdown import break_down
from evaluation.comparison import Comparison, Example, Shown, spread
from evaluation.diversity import diversity_metrics
from evaluation.metric_help import METRIC_HELP
from evaluation.ranking import mean_metrics, ranking_metrics
from evaluation.report import markdown_page, write_report
from evaluation.significance import paired_tests
from evaluation.tables import markdown_table

__all__ = [
    "METRIC_HELP",
    "Comparison",
    "Example",
    "Shown",
    "break_down",
    "diversity_metrics",
    "markdown_page",
    "markdown_table",
    "mean_metrics",
    "paired_tests",
    "ranking_metrics",
    "spread",
    "write_report",
]
