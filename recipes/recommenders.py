"""Classical recommenders, fitted and measured: baselines, and what a reward asks.

python -m recipes.recommenders --config recipes/ml-100k/recommenders.yaml
python -m recipes.recommenders --config recipes/ml-100k/recommenders.yaml --only sasrec
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.arguments import RecommenderArguments
from experiments.command_line import command, ending, parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    (args,) = parse(argv, RecommenderArguments)
    from evaluation.tables import markdown_table
    from experiments import fit_recommenders
    from experiments.train import prepare_missing

    prepare_missing(argv, args.data, args.data_recipe)
    rows = fit_recommenders(**vars(args))
    print(markdown_table(rows))
    asked = str(Path(args.output_dir) / list(rows)[-1])
    recipe = ("--config", "recipes/ml-100k/gflownet.yaml", "--data", args.data, "--recommender", asked)
    print(f"\n{ending(args.output_dir, {}, command('train', *recipe))}")


if __name__ == "__main__":
    main()
