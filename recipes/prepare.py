"""An interaction log, or rows that are split already, into a catalogue with semantic IDs and splits.

python -m recipes.prepare --config recipes/ml-100k/data.yaml
python -m recipes.prepare --log my_log.csv --output_dir runs/mine/data --codebook_sizes 256 256 256
"""

from collections.abc import Sequence
from pathlib import Path

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
    run = str(Path(args.output_dir).parent / "sft")
    sft = command("train", "--config", "recipes/ml-100k/sft.yaml", "--data", args.output_dir, "--output_dir", run)
    print(ending(args.output_dir, {name: value for name, value in counts.items() if not isinstance(value, dict)}, sft))


if __name__ == "__main__":
    main()
