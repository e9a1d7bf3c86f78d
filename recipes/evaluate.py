"""Rank held-out items with a trained run and write what the comparison needs into its folder.

python -m recipes.evaluate --run runs/ml-100k/sft --data runs/ml-100k/data
python -m recipes.evaluate --run runs/ml-100k/sft --data runs/ml-100k/data --exact_users -1
"""

from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.arguments import EvaluateArguments
from experiments.command_line import command, ending, parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, EvaluateArguments)
    from experiments import evaluate_run
    from experiments.evaluate import output_folder
    from experiments.evaluations import evaluation_folder

    metrics = evaluate_run(**vars(args))
    folder = output_folder(args)
    compare = command("compare", "--runs", str(folder), "--output_dir", str(folder.parent / "compared"))
    print(ending(evaluation_folder(folder, args.split), metrics, compare))


if __name__ == "__main__":
    main()
