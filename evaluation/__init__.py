"""How good the recommendations are, and the page that compares methods.

- `ranking`: recall, NDCG and MRR of the held-out item, per user and on average; the cut-offs they have
- `diversity`: how varied the recommendations are over all users
- `significance`: whether one method is better than another for the same users
- `breakdown`: a metric for groups of users
- `metric_help`: what every reported number means, and which way is better
- `page_contents`: all that a page says of some methods; `tables` and `figures` of it
- `markdown`: any table as Markdown
- `report`: the comparison as one HTML page, and as Markdown

Modules that only a page needs are imported from their own files, so that training loads neither plots nor statistics.
"""

from evaluation.breakdown import break_down
from evaluation.diversity import diversity_metrics
from evaluation.metric_help import METRIC_HELP, metric_help
from evaluation.ranking import mean_metrics, ranking_metrics

__all__ = ["METRIC_HELP", "break_down", "diversity_metrics", "mean_metrics", "metric_help", "ranking_metrics"]
