"""What `compare.py` trains: every method of a sweep with every seed, in `<runs_dir>/<method>/seed_<seed>`.

What is finished is kept, so that an interrupted sweep goes on.
"""

import json
import os
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from catalog.errors import InputError
from catalog.files import read_json
from recipes.arguments import CompareArguments, EvaluateArguments, RecommenderArguments, RunArguments
from recipes.cli import parse, setting
from recipes.stages import TIMES, Stage, run_stages
from trainer import METHODS
from trainer.export import finished

VOLATILE = {"output_dir", "resume_from_checkpoint", "disable_tqdm", "dry_run"}
"""Settings of a run that say nothing about what it learned."""

Settings = dict[str, Any]


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
    return [str(_folder(args, method, seed)) for method in methods for seed in args.seeds]


def check_sweep(args: CompareArguments) -> dict[str, Settings]:
    """The settings of each method in the order of the sweep. Raises InputError."""
    methods: dict[str, Settings] = args.table
    for method, settings in methods.items():
        if not isinstance(settings, dict) or ("config" in settings) == ("evaluate" in settings):
            raise InputError(
                f"sweep: {method} needs either config, a recipe to train, or evaluate, a method to evaluate.",
                field="sweep",
            )
        if nothing := [name for name, value in settings.items() if value is None]:
            raise InputError(
                f"sweep: {method}: {nothing[0]} has no value.", remedy="Give it one, or leave it out.", field="sweep"
            )
    trained = [method for method, settings in methods.items() if "config" in settings]
    sources = {f"sweep: {method}: evaluate": settings.get("evaluate") for method, settings in methods.items()}
    for name, source in (sources | {"reward_of": args.reward_of}).items():
        if source is not None and source not in trained:
            raise InputError(
                f"{name}={source}: it is not one of the methods {trained} that the sweep trains.",
                field=name,
                value=source,
            )
    if args.baseline is not None and args.baseline not in methods:
        raise InputError(
            f"baseline={args.baseline}: it is not one of the methods {list(methods)} of the sweep.",
            field="baseline",
            value=args.baseline,
        )
    return methods


def missing_stages(args: CompareArguments, methods: dict[str, Settings]) -> dict[str, Stage]:
    """The stages to run by name, each after those it needs."""
    before = dict(_preparations(args, methods))
    training: dict[str, Stage] = {}
    evaluation: dict[str, Stage] = {}
    for seed in args.seeds:
        for method in _in_order(methods):
            if "config" in methods[method] and (stage := _training(args, methods, method, seed, training)):
                training[f"train {method}/seed_{seed}"] = stage
        for method in methods:
            if stage := _evaluation(args, methods, method, seed, training):
                evaluation[f"evaluate {method}/seed_{seed}"] = stage
    return before | training | evaluation


def _in_order(methods: dict[str, Settings]) -> list[str]:
    """Methods after those they start from."""
    graph = {m: [source for source in methods if settings.get("model") == source] for m, settings in methods.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise InputError(
            f"sweep: {' <- '.join(error.args[1])} start from each other.", remedy="Let one start anew.", field="sweep"
        ) from error


def _preparations(args: CompareArguments, methods: dict[str, Settings]) -> Iterator[tuple[str, Stage]]:
    """What all runs share and is not there yet: the data and the collaborative models."""
    data, logs = str(args.data), Path(args.output_dir)
    if args.data_recipe and not Path(data).exists():
        yield (
            "prepare",
            Stage(_command("prepare", "--config", args.data_recipe, "--output_dir", data), logs / "prepare.log"),
        )
    # for reference a model must be measured, to ask it it need only be fitted
    signs = {Path(asked): "recommender.json" for settings in methods.values() if (asked := _recommender(settings))}
    signs |= {Path(folder): "metrics.json" for folder in args.references}
    missing = [folder for folder, sign in signs.items() if not (folder / sign).is_file()]
    if missing and not args.recommender_recipe:
        raise InputError(
            f"{missing[0]} is not fitted.", remedy="Run python recipes/recommenders.py, or set recommender_recipe."
        )
    for parent in dict.fromkeys(folder.parent for folder in missing):
        argv = ["--config", str(args.recommender_recipe), "--data", data, "--output_dir", str(parent)]
        (models,) = parse(argv, RecommenderArguments)
        names = [folder.name for folder in missing if folder.parent == parent]
        if unknown := set(names) - set(models.table):
            raise InputError(f"{parent / min(unknown)} is missing, and {args.recommender_recipe} has no such model.")
        needed = {part for name in names for part in models.needed(name)}
        only = [name for name in models.table if name in needed]  # parts before their mixture
        stage = Stage(_command("recommenders", *argv, "--only", *only), logs / "recommenders.log", {"prepare"})
        yield f"recommenders {parent}", stage


def _recommender(settings: Settings) -> str | None:
    """The folder of the collaborative model that training or guided decoding asks."""
    return settings.get("guide") if "evaluate" in settings else setting(_flags(settings), "recommender")


def _prepared(settings: Settings) -> set[str]:
    """The preparations that a method waits for: SFT, which asks no collaborative model, does not wait for them."""
    asked = _recommender(settings)
    return {"prepare"} | ({f"recommenders {Path(asked).parent}"} if asked else set())


def _training(
    args: CompareArguments, methods: dict[str, Settings], method: str, seed: int, stages: dict[str, Stage]
) -> Stage | None:
    """The training of a run, None where it is finished. Raises InputError where it was trained in another way."""
    settings, folder = dict(methods[method]), _folder(args, method, seed)
    source = settings.get("model")
    if source in methods:
        settings["model"] = str(_folder(args, source, seed))
    own = {"data": args.data, "seed": seed, "output_dir": str(folder), "disable_tqdm": True}
    argv = _flags(settings | own | {"resume_from_checkpoint": True})
    _check_same(folder, argv)
    if not _weights(folder):
        needs = _prepared(methods[method]) | ({f"train {source}/seed_{seed}"} if source in methods else set())
        return Stage(_command("train", *argv), folder / "train.log", needs)
    if source in methods:
        begun = _weights(_folder(args, source, seed))
        if f"train {source}/seed_{seed}" in stages or begun > _weights(folder):
            raise InputError(
                f"{folder} is older than {settings['model']}, which it starts from.",
                remedy="Delete it to train anew.",
                file=folder,
            )
    return None


def _check_same(folder: Path, argv: list[str]) -> None:
    """Raise InputError where the run in a folder, finished or interrupted, has other settings than a command."""
    name = setting(argv, "method") or ""
    if name not in METHODS:
        raise InputError(
            f"method={name!r} of {setting(argv, 'config')} is not one of {sorted(METHODS)}.", field="method", value=name
        )
    recipe, config = parse(argv, RunArguments, METHODS[name][1])
    if not (path := folder / "resolved.yaml").is_file():
        return
    wanted, kept = vars(recipe) | json.loads(config.to_json_string()), yaml.safe_load(path.read_text())
    for name in sorted(wanted.keys() & kept.keys() - VOLATILE):
        if wanted[name] != kept[name]:
            raise InputError(
                f"{folder} was trained with {name}={kept[name]}, the sweep says {wanted[name]}.",
                remedy="Delete the folder to train it anew, or call the method something else.",
                file=folder,
            )


def _evaluation(
    args: CompareArguments, methods: dict[str, Settings], method: str, seed: int, stages: dict[str, Stage]
) -> Stage | None:
    """The evaluation of a run, None where it is up to date."""
    settings, folder = dict(methods[method]), _folder(args, method, seed)
    source = settings.pop("evaluate", method)
    own = {"run": str(_folder(args, source, seed)), "data": args.data, "output_dir": str(folder)}
    if args.reward_of:
        own["reward_of"] = str(_folder(args, args.reward_of, seed))
    argv = _flags(args.how | ({} if source == method else settings) | own)
    (wanted,) = parse(argv, EvaluateArguments)
    needs = {f"train {name}/seed_{seed}" for name in (source, args.reward_of) if name}
    if needs & stages.keys() or not _evaluated(folder, wanted):
        needs |= _prepared(methods[method])
        return Stage(_command("evaluate", *argv), folder / "evaluate.log", needs)
    return None


def _evaluated(folder: Path, wanted: EvaluateArguments) -> bool:
    """Whether a folder has the evaluation of a run as it is now, in the way that is wanted."""
    ranked = folder / "ranked_test.npz"
    used = [Path(run) for run in (wanted.run, wanted.reward_of) if run]
    if not ranked.is_file() or ranked.stat().st_mtime < max(map(_weights, used)):
        return False
    table = read_json(folder / "metrics.json", "The run's metrics file")
    guide = {"model": wanted.guide, "weight": wanted.guide_weight, "floor": wanted.guide_floor}
    return (
        table.get("test_protocol", {}).items() >= {(n, getattr(wanted, n)) for n in ("beam_width", "exclude_history")}
        and table.get("guide") == (guide if wanted.guide else None)
        and table.get("match_protocol", {}).get("reward_of", wanted.reward_of) in (wanted.reward_of, wanted.run)
    )


def _weights(folder: Path) -> float:
    """When the final weights of a run were written, 0 where they are not there yet, or not all of them."""
    files = folder.glob("model*.safetensors") if finished(folder) else ()
    return max((path.stat().st_mtime for path in files), default=0.0)


def _folder(args: CompareArguments, method: str, seed: int) -> Path:
    return Path(args.runs_dir or args.output_dir) / method / f"seed_{seed}"


def _command(program: str, *argv: str) -> tuple[str, ...]:
    return sys.executable, str(Path(__file__).with_name(f"{program}.py")), *argv


def _flags(settings: Settings) -> list[str]:
    """Settings as a command line has them."""
    argv = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        argv += [f"--{name}", *(one if isinstance(one, str) else json.dumps(one) for one in values)]
    return argv
