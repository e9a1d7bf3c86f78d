"""The trainer that a recipe describes, of any method."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.files import locked
from catalog.settings import check_known
from experiments.arguments import RecommenderArguments, RunArguments
from experiments.command_line import check_torchvision, parse, read_recipe, setting
from semantic_ids.settings import DataArguments


def read_run(argv: Sequence[str]) -> tuple[RunArguments, Any]:
    """The settings of a run and the config of its method. Raises InputError for a method that is unknown."""
    if {"-h", "--help"} & set(argv) and not read_recipe(argv):
        argv = [*argv, "--method", "gflownet"]
    check_torchvision()
    from trainer import METHODS

    method = str(setting(argv, "method") or "")
    problem = f"method={method!r} is not one of {sorted(METHODS)}."
    check_known(method, METHODS, problem, field="method", remedy="Set it in the recipe or with --method.")
    recipe, config = parse(argv, RunArguments, METHODS[method][1])
    return recipe, config


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
    from policy.config import load_lora
    from policy.loading import load_backbone
    from trainer import METHODS
    from trainer.launch import check_processes
    from trainer.run_folder import RunFolder

    check_processes(config)
    with PartialState().main_process_first():
        make_missing(argv, recipe)
    catalog, splits = load_prepared(recipe.data)
    model, tokenizer = load_backbone(catalog, recipe.model, recipe.backbone, config.seed)
    return METHODS[recipe.method][0](
        model,
        config,
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        processing_class=tokenizer,
        catalog=catalog,
        peft_config=load_lora(recipe.lora),
        callbacks=[RunFolder(vars(recipe))],
    )


def make_missing(argv: Sequence[str], recipe: RunArguments) -> None:
    """Prepare the data and fit the recommenders that the recipe's own folders lack."""
    from semantic_ids import prepare

    from experiments.evaluate import fit_recommenders

    # only the recipe's own folders: a mistyped name must not be filled with something else
    if recipe.data_recipe and (data := _missing(argv, "data")):
        prepare(*parse(["--config", recipe.data_recipe, "--output_dir", str(data)], DataArguments))
    if recipe.recommender_recipe and (folder := _missing(argv, "recommender")):
        where = ["--data", recipe.data, "--output_dir", str(folder.parent)]
        (models,) = parse(["--config", recipe.recommender_recipe, *where], RecommenderArguments)
        fit_recommenders(replace(models, only=models.needed(folder.name)))


def _missing(argv: Sequence[str], name: str) -> Path | None:
    """The folder that the recipe names, and the command line does not change, if it is still to be made."""
    folder = read_recipe(argv).get(name)
    return Path(folder) if folder and setting(argv, name) == folder and not Path(folder).exists() else None


def summary(trainer: Any, method: str) -> str:
    """What will be trained, on what."""
    found = trainer.runtime_info
    return (
        f"{method}: {len(trainer.train_dataset):,} rows, {len(trainer.catalog):,} items, {trainer.mixture().count} "
        f"trajectories per prompt, {trainer.prompts_per_step} prompts per step\n"
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
