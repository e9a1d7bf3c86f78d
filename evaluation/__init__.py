"""How good the recommendations are, and the page that compares methods.

- `ranking`: recall, NDCG and MRR of the held-out item, per user and on average
- `diversity`: how varied the recommendations are over all users
- `metric_help`: what every reported number means, and which way is better
- `figures`: training curves and calibration as SVG
- `report`: the comparison of methods as one HTML page, and as a Markdown table
"""

from evaluation.diversity import diversity_metrics
from evaluation.metric_help import METRIC_HELP
from evaluation.ranking import mean_metrics, ranking_metrics
from evaluation.report import markdown_table, write_report

__all__ = ["METRIC_HELP", "diversity_metrics", "markdown_table", "mean_metrics", "ranking_metrics", "write_report"]
