"""What a sweep says of each method, and what of it is refused before the first stage begins."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalog import Catalog
from catalog.errors import InputError
from evaluation.ranking import check_cutoffs, common_cutoffs
from experiments.arguments import CompareArguments, EvaluateArguments, RunArguments
from experiments.command_line import parse
from experiments.comparison import COMPARISON, check_names
from experiments.match import comparable, reward_settings
from experiments.train import method_of_run
from trainer import METHODS

Settings = dict[str, Any]

OWN = {
    "evaluation": {"split"},
    "config": {"data", "seed", "output_dir", "resume_from_checkpoint"},
    "evaluate": {"run", "data", "output_dir", "reward_of"},
}
"""The settings that the sweep itself gives all evaluations, and by kind of method each of its runs or evaluations."""
ALIKE = ("split", "beam_width", "exclude_history")
"""Settings of evaluate.py that the rows of one table share."""


def check_sweep(args: CompareArguments) -> dict[str, Settings]:
    """The settings of each method in the order of the sweep.

    Raises InputError for all that is known to be wrong beforehand: names, settings of training and of evaluation, and
    methods whose rewards differ without a common one to be compared with.
    """
    methods: dict[str, Settings] = args.table
    for method, settings in methods.items():
        _check_method(args, method, settings)
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
    check_names(list(methods), args.references)
    return methods


def _check_method(args: CompareArguments, method: str, settings: Any) -> None:
    if method in ("", ".", "..", COMPARISON) or Path(method).name != method:
        raise InputError(
            f"sweep: {method!r} cannot be the name of a method: its runs lie in a folder of that name in runs_dir.",
            remedy=f"Choose a name without a path, other than {COMPARISON}.",
            field="sweep",
            value=method,
        )
    if not isinstance(settings, dict) or ("config" in settings) == ("evaluate" in settings):
        raise InputError(
            f"sweep: {method} needs either config, a recipe to train, or evaluate, a method to evaluate.",
            field="sweep",
            value=method,
        )
    if nothing := [name for name, value in settings.items() if value is None]:
        raise InputError(
            f"sweep: {method}: {nothing[0]} has no value.", remedy="Give it one, or leave it out.", field="sweep"
        )
    own = OWN["config" if "config" in settings else "evaluate"]
    shared = OWN["evaluation"] | (OWN["evaluate"] if args.reward_of else OWN["evaluate"] - {"reward_of"})
    for where, names in {f"sweep: {method}": own & settings.keys(), "evaluation": shared & args.how.keys()}.items():
        if names:
            raise InputError(
                f"{where}: {min(names)} is given by the sweep itself.", remedy="Leave it out.", field=min(names)
            )


def training(
    args: CompareArguments, methods: dict[str, Settings], method: str, seed: int
) -> tuple[list[str], Settings]:
    """The command line that trains a method with a seed, and what resolved.yaml will say of it."""
    settings = dict(methods[method])
    if (source := settings.get("model")) in methods:
        settings["model"] = str(run_folder(args, source, seed))
    own = {"data": args.data, "seed": seed, "output_dir": str(run_folder(args, method, seed)), "disable_tqdm": True}
    argv = flags(settings | own | {"resume_from_checkpoint": True})
    recipe, config = parse(argv, RunArguments, METHODS[method_of_run(argv)][1])
    return argv, vars(recipe) | json.loads(config.to_json_string())


def evaluation(
    args: CompareArguments, methods: dict[str, Settings], method: str, seed: int
) -> tuple[list[str], EvaluateArguments]:
    """The command line that evaluates a method with a seed, and what it says."""
    settings = dict(methods[method])
    source = settings.pop("evaluate", method)
    own = {"run": str(run_folder(args, source, seed)), "data": args.data, "split": args.split}
    own["output_dir"] = str(run_folder(args, method, seed))
    if args.reward_of:
        own["reward_of"] = str(run_folder(args, args.reward_of, seed))
    argv = flags(args.how | ({} if source == method else settings) | own)
    (wanted,) = parse(argv, EvaluateArguments)
    return argv, wanted


def check_alike(args: CompareArguments, methods: dict[str, Settings], catalog: Catalog | None) -> None:
    """Raise InputError where the methods' evaluations could not stand in one table.

    catalog: that of the data, None where they are still to be prepared.
    """
    wanted = {method: evaluation(args, methods, method, args.seeds[0])[1] for method in methods}
    first, *others = wanted
    if args.eval_k:
        check_cutoffs(args.eval_k, wanted[first].beam_width)
    else:
        common_cutoffs({method: how.eval_k for method, how in wanted.items()})
    for method in others:
        for name in ALIKE:
            here, there = getattr(wanted[first], name), getattr(wanted[method], name)
            if here != there:
                raise InputError(
                    f"sweep: {method} is evaluated with {name}={there}, {first} with {here}: they cannot be compared.",
                    remedy="Evaluate them alike, or in another sweep.",
                    field=name,
                    value=there,
                )
    if (
        all(how.guide for how in wanted.values())
        or args.how.get("reward_of")
        or (catalog is not None and not comparable(catalog))
    ):
        return
    unguided = {settings.get("evaluate", m) for m, settings in methods.items() if not wanted[m].guide}
    rewards = {m: reward_settings(training(args, methods, m, args.seeds[0])[1]) for m in sorted(unguided)}
    _check_rewards(args, {method: reward for method, reward in rewards.items() if reward})


def check_reference(args: CompareArguments, how: EvaluateArguments, name: str, eval_k: Sequence[int]) -> None:
    """Raise InputError where a recommender that is measured at these cut-offs could not stand beside the methods.

    how: their evaluation. name: what is measured, in the message.
    """
    if not args.eval_k:
        common_cutoffs({"The sweep": how.eval_k, name: eval_k})
    elif max(eval_k) < max(args.eval_k):
        raise InputError(
            f"{name} is measured up to {max(eval_k)}, and eval_k of the comparison is {args.eval_k}.",
            remedy="Fit it anew with larger cut-offs, or compare at smaller ones.",
            field="eval_k",
            value=args.eval_k,
        )


def _check_rewards(args: CompareArguments, rewards: Mapping[str, dict[str, Any]]) -> None:
    if args.reward_of:
        if args.reward_of not in rewards:
            raise InputError(
                f"reward_of={args.reward_of}: that method is trained without a reward.",
                remedy="Name one that has a reward.",
                field="reward_of",
                value=args.reward_of,
            )
    elif other := [m for m in rewards if rewards[m] != next(iter(rewards.values()))]:
        raise InputError(
            f"reward_of is missing: {next(iter(rewards))} and {other[0]} have other rewards, and a table compares all "
            "policies with one.",
            remedy="Name the method whose reward that is.",
            field="reward_of",
        )


def run_folder(args: CompareArguments, method: str, seed: int) -> Path:
    """Where a method's run with a seed lies, and its evaluation."""
    return Path(args.runs_dir or args.output_dir) / method / f"seed_{seed}"


def flags(settings: Settings) -> list[str]:
    """Settings as a command line has them."""
    argv = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        argv += [f"--{name}", *(one if isinstance(one, str) else json.dumps(one) for one in values)]
    return argv
