"""Train with any method: the recipe names it.

python recipes/train.py --config recipes/ml-100k/gflownet.yaml --max_steps 5
accelerate launch recipes/train.py --config recipes/ml-100k/gflownet.yaml --max_steps 5
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.files import locked
from catalog.settings import check_known
from recipes.arguments import DataArguments, RecommenderArguments, RunArguments
from recipes.cli import check_torchvision, parse, program, read_recipe, setting


@program
def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(argv) and not read_recipe(argv):
        argv += ["--method", "gflownet"]
    check_torchvision()
    from trainer import METHODS

    method = str(setting(argv, "method") or "")
    problem = f"method={method!r} is not one of {sorted(METHODS)}."
    check_known(method, METHODS, problem, field="method", remedy="Set it in the recipe or with --method.")
    config_class = METHODS[method][1]
    recipe, config = parse(argv, RunArguments, config_class)
    main_process = int(os.environ.get("RANK", 0)) == 0
    with locked(Path(config.output_dir), "run.lock") if main_process and not recipe.dry_run else nullcontext():
        run(argv, recipe, config, method)


def run(argv: Sequence[str], recipe: RunArguments, config: Any, method: str) -> None:
    """Train what a recipe describes, or say what it would train; raises what the user can mend."""
    from accelerate import PartialState

    from recipes.backbone import load_lora
    from recipes.measure import fit_recommenders
    from recipes.parts import load_backbone, load_data, prepare
    from trainer import METHODS
    from trainer.launch import check_processes
    from trainer.run_folder import RunFolder

    check_processes(config)
    with PartialState().main_process_first():
        # only the recipe's own folders: a mistyped name must not be filled with something else
        if recipe.data_recipe and (data := _missing(argv, "data")):
            prepare(*parse(["--config", recipe.data_recipe, "--output_dir", str(data)], DataArguments))
        if recipe.recommender_recipe and (folder := _missing(argv, "recommender")):
            where = ["--data", recipe.data, "--output_dir", str(folder.parent)]
            (models,) = parse(["--config", recipe.recommender_recipe, *where], RecommenderArguments)
            fit_recommenders(replace(models, only=models.needed(folder.name)))
    catalog, splits = load_data(recipe.data)
    model, tokenizer = load_backbone(catalog, recipe.model, recipe.backbone, config.seed)
    trainer = METHODS[method][0](
        model,
        config,
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        processing_class=tokenizer,
        catalog=catalog,
        peft_config=load_lora(recipe.lora),
        callbacks=[RunFolder(vars(recipe))],
    )
    if trainer.accelerator.is_main_process:
        print(
            f"{method}: {len(splits.train):,} rows, {len(catalog):,} items, {trainer.mixture().count} trajectories per "
            f"prompt, {trainer.prompts_per_step} prompts per step\n"
            + ", ".join(f"{name} {value:,}" if isinstance(value, int) else value for name, value in trainer.got.items())
        )
    if not recipe.dry_run:
        resumes = str(config.resume_from_checkpoint).lower() == "true"
        if resumes and trainer.is_finished():
            if trainer.accelerator.is_main_process:
                print(f"The run in {config.output_dir} is finished: nothing is left to train.")
        else:
            trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
            trainer.save_model()
    trainer.end_training()


def _missing(argv: Sequence[str], name: str) -> Path | None:
    """The folder that the recipe names, and the command line does not change, if it is still to be made."""
    folder = read_recipe(argv).get(name)
    return Path(folder) if folder and setting(argv, name) == folder and not Path(folder).exists() else None


if __name__ == "__main__":
    main()
