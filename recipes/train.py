"""Train with any method: the recipe names it, and --method METHOD --help lists its settings.

python -m recipes.train --config recipes/ml-100k/gflownet.yaml --max_steps 5
python -m recipes.train --accelerate zero3 --num_processes 4 --config recipes/ml-100k/gflownet.yaml --max_steps 5
accelerate launch -m recipes.train --config recipes/ml-100k/gflownet.yaml --max_steps 5
"""

import sys
from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.accelerated import launch_if_asked
from experiments.command_line import command, ending, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    launch_if_asked(argv, "train")
    from experiments.train import build_trainer, read_run, run_figures, run_lock, summary, train

    recipe, config = read_run(argv)
    with run_lock(recipe, config):
        trainer = build_trainer(argv, recipe, config)
        speaks = trainer.accelerator.is_main_process
        if speaks:
            print(summary(trainer, recipe.method), flush=True)
        if not recipe.dry_run and not train(trainer) and speaks:
            print(f"The run in {config.output_dir} is finished: nothing is left to train.")
        trainer.end_training()
    if speaks and not recipe.dry_run:
        following = command("evaluate", "--run", config.output_dir, "--data", recipe.data)
        print(ending(config.output_dir, run_figures(config.output_dir), following))


if __name__ == "__main__":
    main()
