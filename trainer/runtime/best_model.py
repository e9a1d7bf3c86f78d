"""Which metric says that a checkpoint is the best, and in which direction."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from catalog.errors import InputError
from catalog.settings import check_known
from evaluation.metric_help import metric_help
from evaluation.ranking import main_cutoff

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
    metric = (args.metric_for_best_model or f"recall@{main_cutoff(args.eval_k)}").removeprefix("eval_")
    directed = [name for name in names if metric_help(name).better]
    of_a_set = metric  # eval_<name>_recall@10 of a dictionary of data sets
    metric = bare_metric(metric, directed)
    check_known(
        metric,
        directed,
        f"metric_for_best_model={metric}: evaluations of this run give {', '.join(directed)}.",
        field="metric_for_best_model",
        remedy="Name one of these.",
    )
    higher = metric_help(metric).better == "higher"
    _agree(args, "greater_is_better", args.greater_is_better, higher, metric)
    args.metric_for_best_model, args.greater_is_better = of_a_set, higher
    if args.lr_scheduler_type in _PLATEAUS:
        given, mode = args.lr_scheduler_kwargs or {}, "max" if higher else "min"
        if isinstance(given, dict):
            _agree(args, "lr_scheduler_kwargs", given.get("mode"), mode, metric)
            args.lr_scheduler_kwargs = given | {"mode": mode}


def settle_set(args: Any, names: Sequence[str]) -> Any:
    """The config with metric_for_best_model of one of several evaluation sets, by default of the first.

    names: those of the sets, [] where there is one without a name. Raises InputError where there is no such set.
    """
    if (metric := args.metric_for_best_model) is None:
        return args
    bare = bare_metric(metric, args.eval_metrics)
    of_set = metric.removesuffix(bare).removesuffix("_")
    if of_set and of_set not in names:
        raise InputError(
            f"metric_for_best_model={metric}: there is no evaluation set {of_set!r}.",
            remedy=f"Name one of {list(names)}." if names else f"Set it to {bare}.",
            field="metric_for_best_model",
            value=metric,
        )
    if of_set or not names:
        return args
    args = copy(args)  # the caller may use it for another trainer
    args.metric_for_best_model = f"{names[0]}_{bare}"
    return args


def bare_metric(metric: str, names: Sequence[str]) -> str:
    """The metric itself in `<evaluation set>_<metric>`. names: the metrics that an evaluation gives."""
    return metric if metric in names else next((name for name in names if metric.endswith(f"_{name}")), metric)


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
            f"{field}={getattr(args, field)}: of {metric} a {metric_help(metric).better} value is better.",
            remedy="Leave it out.",
            field=field,
            value=getattr(args, field),
        )
