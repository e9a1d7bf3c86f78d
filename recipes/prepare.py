"""An interaction log, or rows that are split already, into a catalog with semantic IDs and splits.

python -m recipes.prepare --config recipes/ml-100k/data.yaml
python -m recipes.prepare --log my_log.csv --output_dir runs/mine/data
"""

from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.command_line import command, ending, parse, program
from semantic_ids.settings import DataArguments


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, DataArguments)
    import logging

    from semantic_ids import prepare

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    counts = prepare(**vars(args))
    figures = {name: value for name, value in counts.items() if not isinstance(value, dict)}
    print(ending(args.output_dir, figures, command("reproduce", "--data", args.output_dir)))


if __name__ == "__main__":
    main()
