"""What `compare.py` trains: every method of a sweep with every seed, in `<runs_dir>/<method>/seed_<seed>`.

What is finished is kept, so that an interrupted sweep goes on.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from catalog import Catalog
from catalog.errors import InputError
from experiments import ROOT
from experiments.arguments import CompareArguments, EvaluateArguments, RecommenderArguments
from experiments.command_line import parse, setting
from experiments.evaluate import planned
from experiments.evaluations import check_data, check_recommender, data_provenance, read_evaluation, run_settings
from experiments.stages import TIMES, Stage, run_stages
from experiments.sweep_settings import (
    Settings,
    check_alike,
    check_reference,
    check_sweep,
    evaluation,
    flags,
    run_folder,
    training,
)
from interactions import load_prepared
from interactions.provenance import Provenance
from policy.folders import finished
from recommenders import made_of

VOLATILE = {"output_dir", "resume_from_checkpoint", "disable_tqdm", "dry_run"}
"""Settings of a run that say nothing about what it learned."""


def run_sweep(args: CompareArguments) -> list[str]:
    """Train and evaluate what is missing; the folders of all runs, method by method.

    Raises:
        InputError: the sweep names what is not there, or a run in its folders was trained with other settings.
        RunError: a stage failed, and the message ends with what it said; or the sweep was asked to stop.
    """
    environment = dict(os.environ)  # as it is before checking the settings: transformers keeps some of them there
    methods = check_sweep(args)
    times = Path(args.runs_dir or args.output_dir) / TIMES
    run_stages(missing_stages(args, methods), args.jobs, environment, times)
    return [str(run_folder(args, method, seed)) for method in methods for seed in args.seeds]


def missing_stages(args: CompareArguments, methods: dict[str, Settings]) -> dict[str, Stage]:
    """The stages to run by name, each after those it needs. Raises InputError for what one of them would refuse."""
    prepared = _prepared(args)
    check_alike(args, methods, prepared and prepared.catalog)
    before = dict(_preparations(args, methods, prepared))
    trained: dict[str, Stage] = {}
    evaluated: dict[str, Stage] = {}
    for seed in args.seeds:
        for method in _in_order(methods):
            if "config" in methods[method] and (stage := _training(args, methods, method, seed, trained, prepared)):
                trained[f"train {method}/seed_{seed}"] = stage
        for method in methods:
            if stage := _evaluation(args, methods, method, seed, before | trained, prepared):
                evaluated[f"evaluate {method}/seed_{seed}"] = stage
    return before | trained | evaluated


class Prepared(NamedTuple):
    """The data of the sweep where they are there already."""

    catalog: Catalog
    of: Provenance


def _prepared(args: CompareArguments) -> Prepared | None:
    if args.data_recipe and not Path(str(args.data)).exists():
        return None
    catalog, splits = load_prepared(str(args.data))
    return Prepared(catalog, data_provenance(catalog, splits))


def _in_order(methods: dict[str, Settings]) -> list[str]:
    """Methods after those they start from."""
    graph = {m: [source for source in methods if settings.get("model") == source] for m, settings in methods.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise InputError(
            f"sweep: {' <- '.join(error.args[1])} start from each other.", remedy="Let one start anew.", field="sweep"
        ) from error


def _preparations(
    args: CompareArguments, methods: dict[str, Settings], prepared: Prepared | None
) -> Iterator[tuple[str, Stage]]:
    """What all runs share and is not there yet: the data and the recommenders."""
    data, logs = str(args.data), Path(args.output_dir)
    if prepared is None:
        preparing = _command("prepare", "--config", str(args.data_recipe), "--output_dir", data)
        yield "prepare", Stage(preparing, logs / "prepare.log")
    _, how = evaluation(args, methods, next(iter(methods)), args.seeds[0])
    # for reference a model must be measured, to ask it it need only be fitted
    asked = [*map(_recommender, methods.values()), args.how.get("guide")]
    missing = [folder for folder in map(Path, filter(None, asked)) if not _fitted(folder, prepared)]
    missing += [folder for folder in map(Path, args.references) if not _measured(args, folder, how, prepared)]
    if missing and not args.recommender_recipe:
        raise InputError(
            f"{missing[0]} is not fitted and measured as the sweep asks.",
            remedy="Run python recipes/recommenders.py, or set recommender_recipe.",
            file=missing[0],
        )
    for parent in dict.fromkeys(folder.parent for folder in missing):
        argv = ("--config", str(args.recommender_recipe), "--data", data, "--output_dir", str(parent))
        (models,) = parse(argv, RecommenderArguments)
        names = [folder.name for folder in missing if folder.parent == parent]
        if unknown := set(names) - set(models.table):
            raise InputError(
                f"{parent / min(unknown)} is missing, and {args.recommender_recipe} has no such model.",
                file=parent / min(unknown),
            )
        for name in ("exclude_history", "eval_users") if args.references else ():
            if (value := getattr(models, name)) != getattr(how, name):
                raise InputError(
                    f"{args.recommender_recipe} measures with {name}={value}, the sweep with {getattr(how, name)}: "
                    "they cannot be compared.",
                    remedy="Set both alike.",
                    field=name,
                    value=value,
                )
        if args.references:
            check_reference(args, how, str(args.recommender_recipe), models.eval_k)
        needed = {part for name in names for part in models.needed(name)}
        only = [name for name in models.table if name in needed]  # parts before their mixture
        stage = Stage(_command("recommenders", *argv, "--only", *only), logs / "recommenders.log", {"prepare"})
        yield f"recommenders {parent}", stage


def _fitted(folder: Path, prepared: Prepared | None) -> bool:
    """Whether a recommender is whole. Raises InputError where it was fitted on other data."""
    try:
        made_of(folder)
    except InputError:
        return False
    if prepared:
        check_recommender(folder, prepared.of)
    return True


def _measured(args: CompareArguments, folder: Path, how: EvaluateArguments, prepared: Prepared | None) -> bool:
    """Whether a recommender is fitted and was measured as the methods are."""
    if not _fitted(folder, prepared):
        return False
    try:
        found = read_evaluation(folder, how.split)
        check_reference(args, how, str(folder), found.eval_k)
    except InputError:
        return False
    of = found.made_of
    wanted = prepared.of if prepared else of
    asked = {name: getattr(how, name) for name in ("exclude_history", "eval_users")}
    return not replace(wanted, settings={**of.settings, **asked}).differences(of)


def _recommender(settings: Settings) -> str | None:
    """The folder of the recommender that training or guided decoding asks."""
    return settings.get("guide") if "evaluate" in settings else setting(flags(settings), "recommender")


def _waits_for(settings: Settings) -> set[str]:
    """The preparations that a method waits for: SFT, which asks no recommender, does not wait for them."""
    asked = _recommender(settings)
    return {"prepare"} | ({f"recommenders {Path(asked).parent}"} if asked else set())


def _training(
    args: CompareArguments,
    methods: dict[str, Settings],
    method: str,
    seed: int,
    stages: dict[str, Stage],
    prepared: Prepared | None,
) -> Stage | None:
    """The training of a run, None where it is finished. Raises InputError where it was trained in another way."""
    folder, source = run_folder(args, method, seed), methods[method].get("model")
    argv, wanted = training(args, methods, method, seed)
    _check_same(folder, wanted)
    if prepared and (folder / "resolved.yaml").is_file():
        check_data(folder, str(args.data), prepared.of)
    if not _weights(folder):
        needs = _waits_for(methods[method]) | ({f"train {source}/seed_{seed}"} if source in methods else set())
        return Stage(_command("train", *argv), folder / "train.log", needs)
    if source in methods:
        begun = run_folder(args, source, seed)
        if f"train {source}/seed_{seed}" in stages or _weights(begun) > _weights(folder):
            raise InputError(
                f"{folder} is older than {begun}, which it starts from.",
                remedy="Delete it to train anew.",
                file=folder,
            )
    return None


def _check_same(folder: Path, wanted: Settings) -> None:
    """Raise InputError where the run in a folder, finished or interrupted, has other settings than these."""
    if not (folder / "resolved.yaml").is_file():
        return
    kept = run_settings(folder)
    for name in sorted(wanted.keys() & kept.keys() - VOLATILE):
        if wanted[name] != kept[name]:
            raise InputError(
                f"{folder} was trained with {name}={kept[name]}, the sweep says {wanted[name]}.",
                remedy="Delete the folder to train it anew, or call the method something else.",
                file=folder,
                field=name,
                value=kept[name],
            )


def _evaluation(
    args: CompareArguments,
    methods: dict[str, Settings],
    method: str,
    seed: int,
    stages: dict[str, Stage],
    prepared: Prepared | None,
) -> Stage | None:
    """The evaluation of a run, None where there is one of the same run, data and settings."""
    folder, source = run_folder(args, method, seed), methods[method].get("evaluate", method)
    argv, wanted = evaluation(args, methods, method, seed)
    needs = {f"train {name}/seed_{seed}" for name in (source, args.reward_of) if name} | _waits_for(methods[method])
    if wanted.guide:
        needs.add(f"recommenders {Path(wanted.guide).parent}")
    if prepared and not needs & stages.keys():
        of = planned(wanted, *prepared)
        if _evaluated(folder, wanted, of):
            return None
    return Stage(_command("evaluate", *argv), folder / "evaluate.log", needs)


def _evaluated(folder: Path, wanted: EvaluateArguments, of: Provenance) -> bool:
    try:
        found = read_evaluation(folder, wanted.split)
        return found.eval_k == wanted.eval_k and not found.made_of.differences(of)
    except InputError:
        return False


def _weights(folder: Path) -> float:
    """When the final weights of a run were written, 0 where they are not there yet, or not all of them."""
    files = folder.glob("model*.safetensors") if finished(folder) else ()
    return max((path.stat().st_mtime for path in files), default=0.0)


def _command(program: str, *argv: str) -> tuple[str, ...]:
    return sys.executable, str(ROOT / "recipes" / f"{program}.py"), *argv
