"""What `compare.py` writes: evaluated runs over seeds, against a baseline and for groups of users."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import complete, read_json, write_json
from evaluation import break_down
from evaluation.breakdown import Breakdown
from evaluation.comparison import Comparison, Example, Shown, spread
from evaluation.report import markdown_page, write_report
from evaluation.significance import RESAMPLES, PairedTest, paired_tests
from evaluation.tables import markdown, metric_table
from interactions import Splits, training_counts
from recipes.arguments import CompareArguments
from recipes.measure import same_leaf, user_metrics
from recipes.parts import load_data
from trainer.run_folder import read_log

TESTED = ("recall@10", "ndcg@10", "recall@50")
BROKEN_DOWN = ("recall@10", "ndcg@10")
COST = ("seconds", "tokens", "peak_memory_mb")
SEED = re.compile(r"seed_(\d+)")


Ranked = Mapping[str, Sequence[np.ndarray]]
"""Method -> for each seed the items [users, k] that it ranks."""


class OverUsers(NamedTuple):
    """Metric -> method -> its test, and what tells users apart -> means."""

    tests: dict[str, dict[str, PairedTest]]
    breakdowns: dict[str, Breakdown]


class Run(NamedTuple):
    """A finished and evaluated run. seed: None where the folder does not say it."""

    method: str
    seed: int | None
    folder: Path
    metrics: dict[str, Any]


def compare_runs(args: CompareArguments, folders: Sequence[str]) -> str:
    """Write metrics.json, table.md and report.html over evaluated runs; returns the table of all metrics."""
    methods = read_runs(folders)
    runs = [run for seeds in methods.values() for run in seeds]
    references = {Path(f).name: read_json(Path(f) / "metrics.json", "The metrics file") for f in args.references}
    if shared := set(references) & set(methods):
        raise InputError(
            f"references: {min(shared)} is the name of a run too.",
            remedy="Rename one of the folders.",
            field="references",
        )
    protocol = _protocol(runs, references)
    catalog, splits = load_data(args.data or _data(runs))
    ranked = {method: [_ranked(run, splits) for run in seeds] for method, seeds in methods.items()}
    users = over_users(ranked, args.baseline, catalog, splits)
    comparison = Comparison(
        title=args.title,
        values={method: _values(seeds) for method, seeds in methods.items()}
        | {name: {metric: [value] for metric, value in table["test"].items()} for name, table in references.items()},
        notes=_notes(methods, protocol),
        sections=_sections(methods, references),
        curves={method: logs for method, seeds in methods.items() if (logs := _logs(seeds))},
        calibration={
            method: read_json(seeds[0].folder / "calibration.json", "The calibration")
            for method, seeds in methods.items()
            if (seeds[0].folder / "calibration.json").is_file()
        },
        baseline=args.baseline,
        tests=users.tests,
        breakdowns=users.breakdowns,
        examples=examples({method: seeds[0] for method, seeds in ranked.items()}, catalog, splits),
    )
    folder = Path(args.output_dir)
    table = markdown(metric_table(comparison.values, comparison.sections))
    write_json(folder / "metrics.json", _record(comparison, methods, protocol))
    with complete(folder / "table.md") as temporary:
        temporary.write_text(markdown_page(comparison))
    write_report(folder / "report.html", comparison)
    return table


def read_runs(folders: Sequence[str]) -> dict[str, list[Run]]:
    """The runs by method, in the order given; `<method>/seed_42` is a seed of a method, any other folder a method."""
    methods: dict[str, list[Run]] = {}
    for folder in map(Path, folders):
        method, seed = method_of(folder), SEED.fullmatch(folder.name)
        metrics = read_json(folder / "metrics.json", "The run's metrics file")
        if "test" not in metrics or not (folder / "ranked_test.npz").is_file():
            raise InputError(
                f"Run {folder} is not evaluated.", remedy="Run python recipes/evaluate.py --run ... first."
            )
        run = Run(method, int(seed[1]) if seed else None, folder, metrics)
        for other in methods.setdefault(method, []):
            if None in (run.seed, other.seed) or run.seed == other.seed:
                raise InputError(
                    f"{other.folder} and {folder} are both called {method}.", remedy="Rename one of the folders."
                )
        methods[method].append(run)
    return methods


def method_of(folder: Path) -> str:
    """What the run of a folder is called: `gflownet` for gflownet and for gflownet/seed_42."""
    return folder.parent.name if SEED.fullmatch(folder.name) else folder.name


def over_users(ranked: Ranked, baseline: str | None, catalog: Catalog, splits: Splits) -> OverUsers:
    """Tests against the baseline and means for groups of users; the seeds of a method are averaged first."""
    target = np.array(splits.test["target"])
    per_user: dict[str, dict[str, np.ndarray]] = {}
    for method, seeds in ranked.items():
        found = [user_metrics(places, target, catalog) for places in seeds]
        per_user[method] = {name: np.mean([one[name] for one in found], 0) for name in TESTED}
    tests = {}
    if baseline is not None:
        if baseline not in per_user:
            raise InputError(
                f"baseline={baseline}: it is not one of the runs {list(per_user)}.",
                remedy="Name one of them.",
                field="baseline",
                value=baseline,
            )
        others = [method for method in per_user if method != baseline]
        for name in TESTED if others else ():
            tests[name] = paired_tests({m: per_user[m][name] for m in others}, per_user[baseline][name])
    counts = training_counts(splits, len(catalog))[target]
    lengths = np.array([len(history) for history in splits.test["history"][:]])
    groups = {"Training count of the held-out item": counts, "Length of the history": lengths}
    return OverUsers(tests, {what: break_down(n, per_user, BROKEN_DOWN) for what, n in groups.items()})


def examples(ranked: Mapping[str, np.ndarray], catalog: Catalog, splits: Splits, users: int = 10) -> list[Example]:
    """The last five items of some users, spread evenly over the test rows, and the first five that each method ranks.

    ranked: method -> items [test rows, k], -1 is padding. Without titles items are called by their ids.
    """
    titles = catalog.names
    found = []
    for row in np.unique(np.linspace(0, len(splits.test) - 1, users).astype(int)).tolist():
        history, target = (splits.test[row][name] for name in ("history", "target"))
        found.append(
            Example(
                [titles[item] for item in history[-5:]],
                titles[target],
                {method: _shown(places[row, :5], target, catalog) for method, places in ranked.items()},
            )
        )
    return found


def _shown(items: np.ndarray, target: int, catalog: Catalog) -> list[Shown]:
    titles = catalog.names
    hits = same_leaf(items, catalog) == same_leaf(np.array(target), catalog)
    return [Shown(titles[item], bool(hit)) for item, hit in zip(items, hits, strict=True) if item >= 0]


def _protocol(runs: Sequence[Run], references: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """How all were evaluated: `test` of every method, and `match` of those compared with a reward.

    Raises InputError where they were evaluated differently.
    """
    how = {"test": _shared("test_protocol", [run.metrics["test_protocol"] for run in runs])}
    for name, table in references.items():
        if any(how["test"][key] != value for key, value in table["test_protocol"].items()):
            raise InputError(
                f"{name} was measured as {table['test_protocol']}, the runs as {how['test']}.",
                remedy="Measure them alike.",
                field=name,
            )
    matched = [run.metrics["match_protocol"] for run in runs if "match" in run.metrics]
    # each seed is compared with the reward of the same seed: what they share is the method
    named = [protocol | {"reward_of": method_of(Path(protocol["reward_of"]))} for protocol in matched]
    return how | {"match": _shared("match_protocol", named)} if named else how


def _shared(key: str, protocols: list[dict[str, Any]]) -> dict[str, Any]:
    if any(protocol != protocols[0] for protocol in protocols):
        raise InputError(f"The runs were evaluated differently ({key}): {protocols}.", remedy="Evaluate them alike.")
    return protocols[0]


def _notes(methods: Mapping[str, list[Run]], protocol: Mapping[str, Any]) -> list[str]:
    how = protocol["test"]
    notes = [
        f"{how['users']:,} users; the test item is each user's last one. Everything is trained on all but the last two "
        "items of each user.",
        f"A hit is {'an' if how['hit'] == 'item' else 'a'} {how['hit']}. Trie-constrained beam of width "
        f"{how['beam_width']}; items the user already has are {'not ' if how['exclude_history'] else ''}ranked.",
    ]
    several = {m: ", ".join(str(run.seed) for run in seeds) for m, seeds in methods.items() if len(seeds) > 1}
    for numbers in dict.fromkeys(several.values()):
        whose = (
            "" if len(set(several.values())) == 1 else f" of {', '.join(m for m in several if several[m] == numbers)}"
        )
        notes.append(f"Mean ± sample standard deviation over the seeds {numbers}{whose}; of one run the value alone.")
    if "match" in protocol:
        match = protocol["match"]
        notes.append(f"R is the reward of {match['reward_of']}, on the first {match['users']} users.")
    for name in _guided(methods):
        guide = methods[name][0].metrics["guide"]
        notes.append(f"{name}: guided by {Path(guide['model']).name}, weight {guide['weight']}.")
    return notes


def _sections(methods: Mapping[str, list[Run]], references: Mapping[str, Any]) -> dict[str, list[str]]:
    sections = {
        "Guided decoding: the beam also follows a collaborative model": _guided(methods),
        "For reference: collaborative models": list(references),
    }
    return {heading: names for heading, names in sections.items() if names}


def _guided(methods: Mapping[str, list[Run]]) -> list[str]:
    return [method for method, seeds in methods.items() if "guide" in seeds[0].metrics]


def _values(seeds: Sequence[Run]) -> dict[str, list[float]]:
    """Every metric that all seeds have, its value for each."""
    tables = []
    for run in seeds:
        cost = run.metrics.get("cost", {})  # runs of before it was counted have none
        tables.append(run.metrics["test"] | run.metrics.get("match", {}) | {n: cost[n] for n in COST if n in cost})
    return {name: [table[name] for table in tables] for name in tables[0] if all(name in table for table in tables)}


def _logs(seeds: Sequence[Run]) -> list[list[dict[str, Any]]]:
    return [records for run in seeds if (records := read_log(run.folder))]


def _ranked(run: Run, splits: Splits) -> np.ndarray:
    """The items [users, k] that the run ranked for the test rows."""
    with np.load(run.folder / "ranked_test.npz") as file:
        ranked, target = file["ranked"], file["target"]
    if not np.array_equal(target, splits.test["target"][:]):
        raise InputError(
            f"{run.folder} was evaluated on other users or items than those of data.",
            remedy="Name its data folder.",
            file=run.folder,
        )
    return ranked


def _data(runs: Sequence[Run]) -> str:
    """The data that the first run was trained on; a guided run does not say."""
    for run in runs:
        if (path := run.folder / "resolved.yaml").is_file():
            return yaml.safe_load(path.read_text())["data"]
    raise InputError(
        "data is missing: none of the runs says what it was trained on.", remedy="Name the folder of prepare.py."
    )


def _record(comparison: Comparison, methods: Mapping[str, list[Run]], protocol: dict[str, Any]) -> dict[str, Any]:
    """What metrics.json holds."""
    table: dict[str, dict[str, Any]] = {}
    for method, row in comparison.values.items():
        table[method] = {}
        for name, values in row.items():
            mean, sd = spread(values)
            table[method][name] = {"mean": mean, "sd": sd, "seeds": list(values)}
    tests = {name: {m: test._asdict() for m, test in some.items()} for name, some in comparison.tests.items()}
    return {
        "title": comparison.title,
        "methods": table,
        "tests": {"baseline": comparison.baseline, "resamples": RESAMPLES, **tests} if tests else {},
        "breakdown": {
            what: {"buckets": [bucket._asdict() for bucket in found.buckets], **found.means}
            for what, found in comparison.breakdowns.items()
        },
        "protocol": protocol,
        "runs": {m: [{"seed": run.seed, "folder": str(run.folder)} for run in seeds] for m, seeds in methods.items()},
    }
