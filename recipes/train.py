"""Train with any method: the recipe names it.

python recipes/train.py --config recipes/ml-100k/gflownet.yaml --max_steps 5
accelerate launch recipes/train.py --config recipes/ml-100k/gflownet.yaml --max_steps 5
"""

import sys
from collections.abc import Sequence

from experiments.command_line import program


@program
def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    from experiments.train import build_trainer, read_run, run_lock, summary, train

    recipe, config = read_run(argv)
    with run_lock(recipe, config):
        trainer = build_trainer(argv, recipe, config)
        if trainer.accelerator.is_main_process:
            print(summary(trainer, recipe.method))
        if not recipe.dry_run and not train(trainer) and trainer.accelerator.is_main_process:
            print(f"The run in {config.output_dir} is finished: nothing is left to train.")
        trainer.end_training()


if __name__ == "__main__":
    main()
