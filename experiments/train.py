"""The trainer that a recipe describes, of any method."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.files import MARKER, locked, read_json
from catalog.settings import check_known
from experiments.arguments import RecommenderArguments, RunArguments
from experiments.command_line import answer, check_torchvision, is_given, parse, read_recipe, setting
from experiments.setting_tables import groups_of, training_groups, training_methods
from semantic_ids.settings import DataArguments

HEADLINES = ("train_loss", "eval_recall@10", "eval_ndcg@10", "eval_tv")
"""The figures of a run that its end shows."""


def read_run(argv: Sequence[str]) -> tuple[RunArguments, Any]:
    """The settings of a run and the config of its method; --help and slips in names are answered without torch.

    Raises HelpAsked, or InputError for a method that is unknown and for what `parse` refuses.
    """
    asked = bool({"-h", "--help"} & set(argv))
    method = "gflownet" if asked and not setting(argv, "method") else method_of_run(argv)
    answer(argv, [*groups_of(RunArguments), *training_groups(method)])
    check_torchvision()
    from trainer import METHODS

    recipe, config = parse(argv, RunArguments, METHODS[method][1])
    return recipe, config


def method_of_run(argv: Sequence[str]) -> str:
    """The method that a command line or its recipe names. Raises InputError for one that is unknown."""
    method, known = str(setting(argv, "method") or ""), training_methods()
    where = f" of {recipe}" if (recipe := setting(argv, "config")) else ""
    problem = f"method={method!r}{where} is not one of {known}."
    check_known(method, known, problem, field="method", remedy="Set it in the recipe or with --method.")
    return method


def run_lock(recipe: RunArguments, config: Any) -> AbstractContextManager[object]:
    """Held by the main process of a run while it writes its folder."""
    main_process = int(os.environ.get("RANK", 0)) == 0
    return locked(Path(config.output_dir), "run.lock") if main_process and not recipe.dry_run else nullcontext()


def build_trainer(argv: Sequence[str], recipe: RunArguments, config: Any) -> Any:
    """The trainer of a recipe, whose data and recommenders are made first where they are missing.

    Raises what the user can mend.
    """
    from accelerate import PartialState

    from interactions import load_prepared
    from policy import load_backbone
    from policy.config import load_lora
    from trainer import METHODS
    from trainer.reporting.run_folder import RunFolder
    from trainer.runtime.launch import check_processes

    check_processes(config)
    with PartialState().main_process_first():
        make_missing(argv, recipe)
    catalog, splits = load_prepared(recipe.data)
    model, tokenizer = load_backbone(catalog, recipe.model, recipe.backbone, config.seed)
    trainer = METHODS[recipe.method][0](
        model,
        config,
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        processing_class=tokenizer,
        catalog=catalog,
        peft_config=load_lora(recipe.lora),
        callbacks=[RunFolder(vars(recipe))],
    )
    return trainer


def make_missing(argv: Sequence[str], recipe: RunArguments) -> None:
    """Prepare the data and fit the recommenders that the recipe's own folders lack.

    Raises InputError where the recipe's own data folder was prepared with other settings than its data_recipe has.
    """
    from experiments.evaluate import fit_recommenders

    prepare_missing(argv, recipe.data, recipe.data_recipe)
    if recipe.recommender_recipe and (folder := _missing(argv, "recommender")):
        where = ["--data", recipe.data, "--output_dir", str(folder.parent)]
        (models,) = parse(["--config", recipe.recommender_recipe, *where], RecommenderArguments)
        fit_recommenders(**vars(replace(models, only=models.needed(folder.name))))


def prepare_missing(argv: Sequence[str], data: str, data_recipe: str | None) -> None:
    """Prepare the recipe's own data folder where it is missing; where it is there, compare it with `data_recipe`.

    A folder that the command line names is taken as it is, unless the command line names a data_recipe too. Raises
    InputError where the folder was prepared with other settings.
    """
    from semantic_ids import check_prepared, prepare

    missing = _missing(argv, "data")
    named = is_given(argv, "data") and not is_given(argv, "data_recipe")
    if not data_recipe or not (missing or (Path(data, MARKER).is_file() and not named)):
        return
    (wanted,) = parse(["--config", data_recipe, "--output_dir", data], DataArguments)
    if missing:
        prepare(**vars(wanted))
    else:
        check_prepared(data, wanted, data_recipe)


def _missing(argv: Sequence[str], name: str) -> Path | None:
    """The folder that the recipe names, and the command line does not change, if it is still to be made."""
    folder = read_recipe(argv).get(name)
    return Path(folder) if folder and setting(argv, name) == folder and not Path(folder).exists() else None


def summary(trainer: Any, method: str) -> str:
    """What will be trained, on what."""
    args, found, count = trainer.args, trainer.runtime_info, trainer.rollouts.mixture.count
    prompts = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return (
        f"{method}: {len(trainer.train_dataset):,} rows, {len(trainer.catalog):,} items, {count} trajectories per "
        f"prompt, {prompts} prompts per step\n"
        + ", ".join(f"{name} {value:,}" if isinstance(value, int) else value for name, value in found.items())
    )


def train(trainer: Any) -> bool:
    """Train and save the model, or return False for a finished run that is to be resumed."""
    resume = trainer.args.resume_from_checkpoint
    if str(resume).lower() == "true" and trainer.is_finished():
        return False
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return True


def run_figures(folder: str | Path) -> dict[str, float]:
    """The main figures of a finished run, from its metrics.json; {} where it has none."""
    path = Path(folder) / "metrics.json"
    if not path.is_file():
        return {}
    record = read_json(path, "The run's metrics file")
    values = record["train"] | record["cost"]
    return {name: values[name] for name in (*HEADLINES, "seconds") if name in values}
