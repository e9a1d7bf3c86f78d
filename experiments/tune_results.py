"""What a search leaves: chosen.yaml, the table of trials, metrics.json and the page."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from catalog.errors import RunError
from catalog.files import complete, write_json
from evaluation.tuning_page import Tried, TunedMethod, TuningPage, write_tuning_page
from experiments.search_space import Choices
from experiments.tune_arguments import TuneArguments
from experiments.tune_methods import Tuned, as_read
from interactions import load_prepared

if TYPE_CHECKING:
    import optuna

CHOSEN = "chosen.yaml"
FEWEST = 5
"""Complete trials below which nothing is said of which settings decide."""


def write_search(args: TuneArguments, studies: "Mapping[str, tuple[Tuned, optuna.Study]]") -> dict[str, Any]:
    """Write what the trials say; the content of metrics.json. Raises RunError where a method has none to choose."""
    folder, (catalog, splits) = Path(args.output_dir), load_prepared(args.data)
    tuned = {name: _tuned(method, study) for name, (method, study) in studies.items()}
    on = {
        **{"data": args.data, "catalog": catalog.fingerprint, "split": "validation", "users": len(splits.validation)},
        **{"metric": args.metric, "exclude_history": args.exclude_history, "pruner": args.pruner, "seed": args.seed},
        **{"trials": args.trials, "seconds": args.seconds, "trial_seconds": args.trial_seconds, "jobs": args.jobs},
    }
    best = {name: method.by_value[0] for name, method in tuned.items()}
    chosen = {name: method.chosen(dict(best[name].settings)) for name, (method, _) in studies.items()}
    with complete(folder / CHOSEN) as temporary:
        temporary.write_text(
            "# Chosen by tune.py. `chosen: this file` in a recipe of compare, reproduce or recommenders takes it up.\n"
            + yaml.safe_dump({"chosen_on": on | {"methods": args.table}, "methods": chosen}, sort_keys=False)
        )
    record: dict[str, Any] = {"protocol": on, "methods": {}, "trials": {}}
    for name, method in tuned.items():
        states = [trial.state for trial in method.trials]
        record["methods"][name] = {
            **{"value": best[name].value, "trial": best[name].number, "settings": chosen[name]},
            **{"own_settings": method.own, "seconds": method.seconds, "importance": method.importance},
            **{state: states.count(state) for state in ("complete", "pruned", "failed")},
        }
        record["trials"][name] = [trial._asdict() for trial in method.trials]
    write_json(folder / "metrics.json", record)
    _write_table(folder / "trials.csv", tuned)
    page = TuningPage(args.title, args.metric, _notes(args, len(splits.validation)), tuned)
    write_tuning_page(folder / "report.html", page)
    return record


def _tuned(method: Tuned, study: "optuna.Study") -> TunedMethod:
    from optuna.importance import get_param_importances

    from experiments.tune import finished

    states: dict[str, Any] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    trials = [
        Tried(
            trial.user_attrs["folder"],
            states[trial.state.name],
            trial.value if trial.state.name == "COMPLETE" else trial.user_attrs.get("reached"),
            trial.user_attrs["seconds"],
            as_read(method.space, trial.params),
            trial.user_attrs.get("own", False),
        )
        for trial in sorted(finished(study), key=lambda trial: trial.user_attrs["folder"])
    ]
    whole = [trial for trial in trials if trial.state == "complete"]
    if not whole:
        raise RunError(
            f"No trial of {method.name} was measured to its end.", remedy="Allow more seconds, or another space."
        )
    importance = {}
    if len(whole) >= FEWEST and len({trial.value for trial in whole}) > 1:
        importance = {name: float(share) for name, share in get_param_importances(study).items()}
    scales: dict[str, Any] = {}
    for name, some in method.space.items():
        scales[name] = "choice" if isinstance(some, Choices) else "log" if some.log else "linear"
    best = max(whole, key=lambda trial: trial.value or 0.0)
    return TunedMethod(trials, best.number, scales, importance)


def _write_table(path: Path, tuned: Mapping[str, TunedMethod]) -> None:
    settings = list(dict.fromkeys(name for method in tuned.values() for name in method.scales))
    with complete(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["method", "trial", "state", "value", "seconds", *settings])
        for name, method in tuned.items():
            for trial in method.trials:
                values = [trial.settings.get(setting, "") for setting in settings]
                shown = [json.dumps(value) if isinstance(value, dict | list) else value for value in values]
                table.writerow([name, trial.number, trial.state, trial.value, round(trial.seconds, 1), *shown])


def _notes(args: TuneArguments, users: int) -> list[str]:
    each = f"{args.trials} trials" + (f" and {args.seconds:.0f} seconds" if args.seconds else "")
    notes = [
        f"Chosen by {args.metric} on the {users:,} validation rows; the test items were not read.",
        f"Each method has the same budget: {each}. The first trial has the method's own settings where the search "
        "holds them, the others are drawn by Optuna's TPE.",
        f"Items the user already has are {'not ' if args.exclude_history else ''}ranked.",
    ]
    if args.trial_seconds:
        notes.append(f"A trial that took {args.trial_seconds:.0f} seconds was ended, and counts with what it reached.")
    if args.pruner != "none":
        notes.append(f"Trials that fell behind the others were ended early ({args.pruner} pruning).")
    return notes
