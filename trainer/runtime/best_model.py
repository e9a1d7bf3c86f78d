"""Which metric says that a checkpoint is the best, and in which direction."""

from collections.abc import Sequence
from typing import Any

from catalog.errors import InputError
from catalog.settings import check_known
from evaluation.metric_help import METRIC_HELP

DEFAULT = "recall@10"
_PLATEAUS = ("reduce_lr_on_plateau", "greedy")


def settle_metric(args: Any, names: Sequence[str]) -> None:
    """Fill in metric_for_best_model, greater_is_better and a plateau's mode where a setting of `args` reads them.

    names: the metrics that an evaluation of the run gives. Raises InputError where nothing is evaluated, the metric is
    not among them, or its direction is contradicted.
    """
    if not (readers := _readers(args)):
        return
    if args.eval_strategy == "no":
        raise InputError(
            f"{readers[0]} needs evaluations, and eval_strategy is no.",
            remedy="Set eval_strategy: steps or epoch, or leave it out.",
            field=readers[0],
            value=getattr(args, readers[0]),
        )
    metric = (args.metric_for_best_model or DEFAULT).removeprefix("eval_")
    directed = [name for name in names if METRIC_HELP[name].better]
    check_known(
        metric,
        directed,
        f"metric_for_best_model={metric}: evaluations of this run give {', '.join(directed)}.",
        field="metric_for_best_model",
        remedy="Name one of these.",
    )
    higher = METRIC_HELP[metric].better == "higher"
    _agree(args, "greater_is_better", args.greater_is_better, higher, metric)
    args.metric_for_best_model, args.greater_is_better = metric, higher
    if args.lr_scheduler_type in _PLATEAUS:
        given, mode = args.lr_scheduler_kwargs or {}, "max" if higher else "min"
        if isinstance(given, dict):
            _agree(args, "lr_scheduler_kwargs", given.get("mode"), mode, metric)
            args.lr_scheduler_kwargs = given | {"mode": mode}


def _readers(args: Any) -> list[str]:
    """The settings that ask for a metric, by name."""
    uses = {
        "early_stopping_patience": args.early_stopping_patience is not None,
        "load_best_model_at_end": args.load_best_model_at_end,
        "lr_scheduler_type": args.lr_scheduler_type in _PLATEAUS,
        "save_strategy": args.save_strategy == "best",
        "metric_for_best_model": args.metric_for_best_model is not None,
        "greater_is_better": args.greater_is_better is not None,
    }
    return [name for name, used in uses.items() if used]


def _agree(args: Any, field: str, given: Any, right: Any, metric: str) -> None:
    if given not in (None, right):
        raise InputError(
            f"{field}={getattr(args, field)}: of {metric} a {METRIC_HELP[metric].better} value is better.",
            remedy="Leave it out.",
            field=field,
            value=getattr(args, field),
        )
