"""The methods of a search: what a trial of each runs, and what its evaluations say."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from catalog.errors import InputError
from catalog.settings import check_known
from evaluation.ranking import ranking_names
from experiments import ROOT
from experiments.arguments import RunArguments
from experiments.command_line import parse
from experiments.search_space import Space, read_space
from experiments.setting_tables import groups_of, names, training_groups
from experiments.sweep_settings import flags
from experiments.train import make_missing, method_of_run
from experiments.tune_arguments import TuneArguments
from recommenders import RECOMMENDERS
from recommenders.store import settings_of
from trainer import METHODS

Settings = dict[str, Any]
OWN = {"data", "output_dir", "resume_from_checkpoint", "exclude_history", "disable_tqdm"}
"""What the search itself gives each trial."""
NOT_TRIED = OWN | {"seed", "config", "method", "kind", "data_recipe", "recommender_recipe", "dry_run"}


class Tuned(Protocol):
    """A method of the search."""

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> Space:
        """What is tried."""
        ...

    @property
    def base(self) -> Mapping[str, Any]:
        """Its settings without a search."""
        ...

    @property
    def decides(self) -> Mapping[str, Any]:
        """What says whether two searches are the same."""
        ...

    def command(self, settings: Settings, folder: Path) -> list[str]:
        """What runs a trial in a folder. It leaves `metrics.jsonl`, evaluations among its records."""
        ...

    def value(self, records: Sequence[Mapping[str, Any]]) -> float:
        """The metric of what a trial leaves, from the records of its evaluations, one or more."""
        ...

    def chosen(self, settings: Settings) -> Settings:
        """What a recipe says of the method with these settings."""
        ...

    def prepare(self) -> None:
        """Make what all trials need."""
        ...


@dataclass(frozen=True)
class Trained:
    """A method of train.py. best: the metric whose best checkpoint a run keeps, None where it keeps the last."""

    name: str
    space: Space
    base: Mapping[str, Any]
    decides: Mapping[str, Any]
    given: Settings
    metric: str
    best: str | None

    def command(self, settings: Settings, folder: Path) -> list[str]:
        argv = flags(self.given | settings | {"output_dir": str(folder), "disable_tqdm": True})
        return [sys.executable, str(ROOT / "recipes" / "train.py"), *argv, "--resume_from_checkpoint", "true"]

    def value(self, records: Sequence[Mapping[str, Any]]) -> float:
        kept = max(records, key=lambda record: record[f"eval_{self.best}"]) if self.best else records[-1]
        return kept[f"eval_{self.metric}"]

    def chosen(self, settings: Settings) -> Settings:
        return settings

    def prepare(self) -> None:
        argv = flags(self.given | {"output_dir": "unused"})
        recipe, _ = parse(argv, RunArguments, METHODS[method_of_run(argv)][1])
        make_missing(argv, recipe)


@dataclass(frozen=True)
class Fitted:
    """A recommender."""

    name: str
    space: Space
    base: Mapping[str, Any]
    decides: Mapping[str, Any]
    given: Settings
    kind: str
    args: TuneArguments

    def command(self, settings: Settings, folder: Path) -> list[str]:
        own = {"data": self.args.data, "output_dir": str(folder), "exclude_history": self.args.exclude_history}
        own |= {"kind": self.kind, "metric": self.args.metric, "settings": json.dumps(self.given | settings)}
        return [sys.executable, "-m", "experiments.fit_trial", *flags(own)]

    def value(self, records: Sequence[Mapping[str, Any]]) -> float:
        return records[-1][f"eval_{self.args.metric}"]

    def chosen(self, settings: Settings) -> Settings:
        return {"kind": self.kind, **self.given, **settings}

    def prepare(self) -> None:
        """Its trials need nothing but the data."""


def read_methods(args: TuneArguments) -> list[Tuned]:
    """The methods of the search in its order.

    Raises InputError for all that is known to be wrong beforehand: names, settings, their values, ranges, the metric.
    """
    return [_fitted(args, name) if "kind" in table else _trained(args, name) for name, table in args.table.items()]


def _trained(args: TuneArguments, name: str) -> Trained:
    table = dict(args.table[name])
    search = table.pop("search", None)
    _check_own(name, table, OWN)
    given = {**table, "data": args.data, "exclude_history": args.exclude_history}
    if args.data_recipe:
        given["data_recipe"] = args.data_recipe
    config, known = _parsed(given), names([*groups_of(RunArguments), *training_groups(_method(given))])
    if str(config["eval_strategy"]) == "no":
        given["eval_strategy"] = "epoch"
        config = _parsed(given)
    if args.metric not in config["eval_metrics"]:
        check_known(
            args.metric,
            config["eval_metrics"],
            f"metric={args.metric}: {name} does not measure it.",
            field="metric",
            remedy=f"It has {', '.join(config['eval_metrics'])}.",
        )
    space = read_space(name, search, known, NOT_TRIED)
    for setting, some in space.items():
        for value in some.ends:
            _parsed(given | {setting: value})
    best = str(config["metric_for_best_model"]).removeprefix("eval_") if config["load_best_model_at_end"] else None
    decides = {key: value for key, value in config.items() if key not in {*OWN, *space, "eval_metrics", "dry_run"}}
    return Trained(name, space, config, _plain(decides | {"search": search}), given, args.metric, best)


def _method(given: Settings) -> str:
    return method_of_run(flags(given))


def _parsed(given: Settings) -> Settings:
    """All settings of a run by name, with `eval_metrics`."""
    argv = flags(given | {"output_dir": "unused"})
    recipe, config = parse(argv, RunArguments, METHODS[method_of_run(argv)][1])
    return vars(recipe) | json.loads(config.to_json_string()) | {"eval_metrics": config.eval_metrics}


def _fitted(args: TuneArguments, name: str) -> Fitted:
    given = dict(args.table[name])
    kind, search = given.pop("kind"), given.pop("search", None)
    check_known(
        kind, RECOMMENDERS, f"methods: {name}: {kind!r} is not a kind that can be fitted.", field="methods",
        remedy=f"Choose one of {sorted(RECOMMENDERS)}.",
    )  # fmt: skip
    k = args.metric.partition("@")[2]
    if not (k.isdigit() and int(k) and args.metric in ranking_names([int(k)])):
        raise InputError(
            f"metric={args.metric}: a recommender is measured by recall@k, ndcg@k or mrr@k.",
            remedy="k is 1 or more, for NDCG 2.",
            field="metric",
            value=args.metric,
        )
    space = read_space(name, search, names(groups_of(RECOMMENDERS[kind].Settings)), {"seed"})
    base = vars(settings_of(kind, given))
    for setting, some in space.items():
        for value in some.ends:
            settings_of(kind, given | {setting: value})
    decides = {key: value for key, value in base.items() if key not in space} | {"kind": kind, "search": search}
    return Fitted(name, space, base, _plain(decides), given, kind, args)


def _check_own(name: str, table: Mapping[str, Any], own: set[str]) -> None:
    if given := own & table.keys():
        raise InputError(
            f"methods: {name}: {min(given)} is given by the search itself.", remedy="Leave it out.", field=min(given)
        )


def _plain(settings: Mapping[str, Any]) -> Settings:
    """Settings as JSON has them."""
    return json.loads(json.dumps(settings, default=str))


def start_values(method: Tuned) -> Settings:
    """The method's own settings where the space holds them: what the first trial tries, as Optuna stores it."""
    held = {name: some for name, some in method.space.items() if some.holds(method.base.get(name))}
    return {name: some.stored(method.base[name]) for name, some in held.items()}


def as_read(space: Space, stored: Mapping[str, Any]) -> Settings:
    """The settings of a trial from what Optuna keeps of them."""
    return {name: space[name].read(value) for name, value in stored.items() if name in space}
