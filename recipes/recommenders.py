"""Classical recommenders, fitted and measured: baselines, and what a reward asks.

python recipes/recommenders.py --config recipes/ml-100k/recommenders.yaml
python recipes/recommenders.py --config recipes/ml-100k/recommenders.yaml --only sasrec
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.arguments import RecommenderArguments
from experiments.command_line import parse, program, read_recipe
from semantic_ids.settings import DataArguments


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, RecommenderArguments)
    from semantic_ids import prepare

    from evaluation.tables import markdown_table
    from experiments.evaluate import fit_recommenders

    # only the recipe's own folder: a mistyped --data must not be filled with another data set
    named = read_recipe(list(sys.argv[1:] if argv is None else argv)).get("data")
    if args.data_recipe and args.data == named and not Path(args.data).exists():
        prepare(*parse(["--config", args.data_recipe, "--output_dir", args.data], DataArguments))
    rows = fit_recommenders(args)
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
