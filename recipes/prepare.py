"""An interaction log into a catalogue with semantic IDs and leave-one-out splits.

python recipes/prepare.py --config recipes/ml-100k/data.yaml
python recipes/prepare.py --log my_log.csv --output_dir runs/mine/data --codebook_sizes 256 256 256
"""

from collections.abc import Sequence

from experiments.command_line import parse, program
from semantic_ids.settings import DataArguments


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, DataArguments)
    import logging

    from semantic_ids import prepare

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    counts = prepare(args)
    print(", ".join(f"{name} {value}" for name, value in counts.items()))


if __name__ == "__main__":
    main()
