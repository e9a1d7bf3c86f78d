"""Recommend with a trained run: the best items of every user of a file, into a file.

python -m recipes.recommend --model runs/ml-100k/sft --data runs/ml-100k/data --output recs.parquet
python -m recipes.recommend --model runs/ml-100k/sft --histories my_users.csv --output recs.jsonl --k 20
accelerate launch -m recipes.recommend --model runs/ml-100k/sft --histories my_users.parquet --output recs.parquet
"""

import os
from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.command_line import command, ending, parse, program
from experiments.recommend_arguments import RecommendArguments


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, RecommendArguments)
    import logging

    from experiments import recommend_users

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    counts = recommend_users(**vars(args))
    if int(os.environ.get("RANK", 0)) == 0:
        if "users_per_second" not in counts:
            print(f"{args.output} was made of the same before: nothing is left to do.")
        print(ending(args.output, counts, command("serve", "--model", args.model)))


if __name__ == "__main__":
    main()
