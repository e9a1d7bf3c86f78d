"""What `compare.py` writes: evaluated runs over seeds, against a baseline and for groups of users."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from datasets import Dataset

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import read_json, sealing, write_json
from evaluation import break_down, mean_metrics
from evaluation.breakdown import Breakdown
from evaluation.page_contents import Comparison, Example, Shown, spread
from evaluation.ranking import KINDS, common_cutoffs, main_cutoff, ranking_names
from evaluation.report import markdown_page, write_report
from evaluation.significance import RESAMPLES, PairedTest, paired_tests
from evaluation.tables import markdown, metric_table
from experiments.arguments import CompareArguments
from experiments.evaluate import representatives, user_metrics, with_users
from experiments.evaluations import Evaluation, data_provenance, has_weights, read_evaluation, weights_digest
from interactions import Splits, load_prepared, training_counts
from trainer.reporting.run_folder import read_log

COST = ("seconds", "tokens", "peak_memory_mb")
SEED = re.compile(r"seed_(\d+)")
COMPARISON = "comparison"


Accuracy = Mapping[str, Sequence[Mapping[str, np.ndarray]]]
"""Method -> for each seed the metrics of its ranking for every user, [users], at the cut-offs that all have."""


class OverUsers(NamedTuple):
    """Metric -> method -> its test, and what tells users apart -> means."""

    tests: dict[str, dict[str, PairedTest]]
    breakdowns: dict[str, Breakdown]


class Run(NamedTuple):
    """A finished and evaluated run. seed: None where the folder does not say it. cost: {} where it was not counted."""

    method: str
    seed: int | None
    folder: Path
    evaluation: Evaluation
    cost: dict[str, Any]


def compare_runs(
    runs: Sequence[str | Path], output_dir: str | Path, split: Literal["validation", "test"] = "test", **settings: Any
) -> str:
    """Write metrics.json, table.md and report.html over evaluated runs into the folder `comparison` of output_dir.

    Args:
        runs: the folders of evaluated runs; `<method>/seed_42` is a seed of a method, any other folder a method.
        output_dir: where the folder `comparison` goes.
        split: the held-out items that are compared.
        settings: of `CompareArguments`: `references`, `title`, `baseline`, `data`, `eval_k`.

    Returns:
        The table of all metrics, in Markdown.

    Raises:
        InputError: the runs were evaluated on other data or in another way, or two rows would have one name.
    """
    folders = [str(run) for run in runs]
    args = CompareArguments(output_dir=str(output_dir), runs=folders, split=split, **settings)
    methods = read_runs(folders, args.split)
    check_names(list(methods), args.references)
    references = {Path(f).name: read_evaluation(f, args.split) for f in args.references}
    evaluations = [run.evaluation for seeds in methods.values() for run in seeds]
    catalog, splits = load_prepared(args.data or evaluations[0].record["data"])
    data = data_provenance(catalog, splits)
    for evaluation in (*evaluations, *references.values()):
        ranked_on, remedy = replace(evaluation.made_of, settings={}), "Evaluate all on the folder that data names."
        data.check(ranked_on, f"What {evaluation.folder} ranked", remedy, evaluation.folder)
    how = shared_protocol(evaluations, references)
    splits = with_users(splits, args.split, how["ranking"]["users"])
    rows = getattr(splits, args.split)
    eval_k = args.eval_k or common_cutoffs(
        {str(one.folder): one.eval_k for one in (*evaluations, *references.values())}
    )
    every = methods | {name: [Run(name, None, one.folder, one, {})] for name, one in references.items()}
    ranked = {
        m: [run.evaluation.ranked(splits, len(catalog), max(eval_k)) for run in seeds] for m, seeds in every.items()
    }
    target = np.array(rows["target"])
    accuracy = {m: [user_metrics(one, target, catalog, eval_k) for one in seeds] for m, seeds in ranked.items()}
    groups, numbers = user_groups(rows, catalog, splits), user_numbers(rows)
    users = over_users({m: accuracy[m] for m in methods}, eval_k, args.baseline, groups, numbers)
    comparison = Comparison(
        title=args.title,
        values={m: _values(seeds, accuracy[m]) for m, seeds in every.items()},
        notes=_notes(methods, how, repeated=numbers is not None),
        sections=_sections(methods, references),
        curves={method: logs for method, seeds in methods.items() if (logs := _logs(seeds))},
        calibration={m: points for m, seeds in methods.items() if (points := seeds[0].evaluation.calibration)},
        baseline=args.baseline,
        tests=users.tests,
        breakdowns=users.breakdowns,
        examples=examples({method: ranked[method][0] for method in methods}, catalog, rows),
    )
    folder = comparison_folder(output_dir)
    with sealing(folder, data.as_dict()) as temporary:
        write_json(temporary / "metrics.json", _record(comparison, methods, how))
        (temporary / "table.md").write_text(markdown_page(comparison), encoding="utf-8")
        write_report(temporary / "report.html", comparison)
    return markdown(metric_table(comparison.values, comparison.sections))


def comparison_folder(output_dir: str | Path) -> Path:
    """Where a comparison is written: a folder of its own, so that none of the runs' files can be overwritten."""
    return Path(output_dir) / COMPARISON


def check_names(methods: Sequence[str], references: Sequence[str]) -> None:
    """Raise InputError where two rows of the table would have one name."""
    names = [*methods, *(Path(reference).name for reference in references)]
    if shared := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"references: {shared[0]} is the name of two rows.",
            remedy="Rename one of the folders.",
            field="references",
            value=shared[0],
        )


def read_runs(folders: Sequence[str], split: str) -> dict[str, list[Run]]:
    """The runs by method, in the order given; `<method>/seed_42` is a seed of a method, any other folder a method.

    Raises InputError where two are called alike, and where one is not evaluated as it is now.
    """
    methods: dict[str, list[Run]] = {}
    for folder in map(Path, folders):
        method, seed = method_of(folder), SEED.fullmatch(folder.name)
        evaluation = read_evaluation(folder, split)
        if has_weights(folder) and evaluation.made_of.settings.get("run") != weights_digest(folder):
            raise InputError(
                f"{folder} has other weights than those that were evaluated.", remedy="Evaluate it anew.", file=folder
            )
        record = folder / "metrics.json"
        cost = read_json(record, "The run's metrics file").get("cost", {}) if record.is_file() else {}
        run = Run(method, int(seed[1]) if seed else None, folder, evaluation, cost)
        for other in methods.setdefault(method, []):
            if None in (run.seed, other.seed) or run.seed == other.seed:
                raise InputError(
                    f"{other.folder} and {folder} are both called {method}.",
                    remedy="Rename one of the folders.",
                    field="runs",
                    value=method,
                )
        methods[method].append(run)
    return methods


def method_of(folder: Path) -> str:
    """What the run of a folder is called: `gflownet` for gflownet and for gflownet/seed_42."""
    return folder.parent.name if SEED.fullmatch(folder.name) else folder.name


def tested_metrics(eval_k: Sequence[int]) -> list[str]:
    """What methods are tested by: recall and NDCG at 10, or the nearest cut-off, and recall at the largest."""
    k, known = main_cutoff(eval_k), ranking_names(eval_k)
    return [name for name in dict.fromkeys((f"recall@{k}", f"ndcg@{k}", f"recall@{max(eval_k)}")) if name in known]


def over_users(
    accuracy: Accuracy,
    eval_k: Sequence[int],
    baseline: str | None,
    groups: Mapping[str, np.ndarray],
    users: np.ndarray | None = None,
) -> OverUsers:
    """Tests against the baseline and means for groups of rows; the seeds of a method are averaged first.

    groups: what tells rows apart -> a number of each, [rows].
    users: the number of each row's user, [rows]: tests average a user's rows, which are no independent samples. None
        where each row is of a user of its own.
    """
    names = tested_metrics(eval_k)
    per_user = {
        method: {name: np.mean([one[name] for one in seeds], 0) for name in names} for method, seeds in accuracy.items()
    }
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
        for name in names if others else ():
            tested = {m: _by_user(per_user[m][name], users) for m in per_user}
            tests[name] = paired_tests({m: tested[m] for m in others}, tested[baseline])
    k = main_cutoff(eval_k)
    broken_down = tuple(name for name in names if name.endswith(f"@{k}"))
    return OverUsers(tests, {what: break_down(number, per_user, broken_down) for what, number in groups.items()})


def user_numbers(rows: Dataset) -> np.ndarray | None:
    """A number for the user of each row, [rows]; None where no user has two rows."""
    if "user" not in rows.column_names:
        return None
    names, numbers = np.unique(rows["user"][:], return_inverse=True)
    return numbers if len(names) < len(rows) else None


def _by_user(values: np.ndarray, users: np.ndarray | None) -> np.ndarray:
    """The mean of each user's rows, [users]."""
    return values if users is None else np.bincount(users, values) / np.bincount(users)


def user_groups(rows: Dataset, catalog: Catalog, splits: Splits) -> dict[str, np.ndarray]:
    """What tells the users of the rows apart -> a number of each, [users]."""
    return {
        "Training count of the held-out item": training_counts(splits, len(catalog))[np.array(rows["target"])],
        "Length of the history": np.array([len(history) for history in rows["history"][:]]),
    }


def examples(ranked: Mapping[str, np.ndarray], catalog: Catalog, rows: Dataset, users: int = 10) -> list[Example]:
    """The last five items of some users, spread evenly over the rows, and the first five that each method ranks.

    ranked: method -> items [rows, k], -1 is padding. Without titles items are called by their ids.
    """
    titles = catalog.names
    found = []
    for row in np.unique(np.linspace(0, len(rows) - 1, users).astype(int)).tolist():
        history, target = (rows[row][name] for name in ("history", "target"))
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
    hits = representatives(items, catalog) == representatives(np.array(target), catalog)
    return [Shown(titles[item], bool(hit)) for item, hit in zip(items, hits, strict=True) if item >= 0]


def shared_protocol(runs: Sequence[Evaluation], references: Mapping[str, Evaluation]) -> dict[str, Any]:
    """How all were evaluated: `ranking` of every method, and `match` of those compared with a reward.

    Raises InputError where they were evaluated differently.
    """
    how = {"ranking": runs[0].record["protocol"]}
    for evaluation in (*runs[1:], *references.values()):
        _check_alike(how["ranking"], evaluation.record["protocol"], runs[0], evaluation, "Evaluate them alike.")
    if matched := [run for run in runs if "match_protocol" in run.record]:
        # each seed may be compared with the run of the same seed: what they must share is how the reward is made
        first, *others = ({n: v for n, v in r.record["match_protocol"].items() if n != "reward_of"} for r in matched)
        for other, run in zip(others, matched[1:], strict=True):
            _check_alike(first, other, matched[0], run, "Evaluate them with the same --reward_of.")
        how["match"] = first | {"reward_of": method_of(Path(matched[0].record["match_protocol"]["reward_of"]))}
    return how


def _check_alike(
    here: Mapping[str, Any], there: Mapping[str, Any], first: Evaluation, other: Evaluation, remedy: str
) -> None:
    # a recommender has no beam: what only one of the two has is not compared
    for name in sorted(here.keys() & there.keys()):
        if here[name] != there[name]:
            raise InputError(
                f"They were evaluated differently: {name} is {here[name]} in {first.folder} and {there[name]} in "
                f"{other.folder}.",
                remedy=remedy,
                file=other.folder,
                field=name,
                value=there[name],
            )


def _notes(methods: Mapping[str, list[Run]], protocol: Mapping[str, Any], repeated: bool) -> list[str]:
    """repeated: whether a user has several rows."""
    how = protocol["ranking"]
    notes = [
        f"{how['users']:,} {how['split']} rows; held out: {how['held_out']}. Everything is trained on "
        f"{how['trained_on']}.",
        f"A hit is {'an' if how['hit'] == 'item' else 'a'} {how['hit']}. Trie-constrained beam of width "
        f"{how['beam_width']}; items the user already has are {'not ' if how['exclude_history'] else ''}ranked.",
    ]
    if how["unrankable"]:
        notes.append(
            f"{how['unrankable']:,} rows have their {how['split']} item in the history, so nothing can rank it."
        )
    if repeated:
        notes.append("Some users have several rows: means are over rows, and tests average the rows of a user first.")
    if how["untrained_targets"]:
        notes.append(
            f"{how['untrained_targets']:,} rows have a target that is in no training event. They count, as misses of "
            "every method that does not rank it."
        )
    if how.get("untrained_users"):
        notes.append(f"{how['untrained_users']:,} rows are of users without a training event; they count, too.")
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
        guide = methods[name][0].evaluation.record["guide"]
        notes.append(f"{name}: guided by {Path(guide['model']).name}, weight {guide['weight']}.")
    return notes


def _sections(methods: Mapping[str, list[Run]], references: Mapping[str, Any]) -> dict[str, list[str]]:
    sections = {
        "Guided decoding: the beam also follows a recommender": _guided(methods),
        "For reference: recommenders": list(references),
    }
    return {heading: names for heading, names in sections.items() if names}


def _guided(methods: Mapping[str, list[Run]]) -> list[str]:
    return [method for method, seeds in methods.items() if "guide" in seeds[0].evaluation.record]


def _values(seeds: Sequence[Run], accuracy: Sequence[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """Every metric that all seeds have, its value for each; of the ranking those in `accuracy`, which has every user's.

    An evaluation's own are left out: what all rows of the table have in common may be measured at fewer cut-offs.
    """
    tables = []
    for run, per_user in zip(seeds, accuracy, strict=True):
        record = run.evaluation.record
        others = {n: v for n, v in record["metrics"].items() if n.partition("@")[0] not in KINDS}
        cost = {n: run.cost[n] for n in COST if n in run.cost}
        tables.append(mean_metrics(per_user) | others | record.get("match", {}) | cost)
    return {name: [table[name] for table in tables] for name in tables[0] if all(name in table for table in tables)}


def _logs(seeds: Sequence[Run]) -> list[list[dict[str, Any]]]:
    return [records for run in seeds if (records := read_log(run.folder))]


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
