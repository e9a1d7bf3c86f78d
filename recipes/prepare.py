"""An interaction log into a catalogue with semantic IDs and leave-one-out splits.

python recipes/prepare.py --config recipes/ml-100k/data.yaml
python recipes/prepare.py --log my_log.csv --output_dir runs/mine/data --codebook_sizes 256 256 256
"""

from collections.abc import Sequence

from recipes.cli import DataArguments, fail, parse


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, DataArguments)
    import logging

    from recipes.parts import prepare

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        counts = prepare(args)
    except (ValueError, OSError) as error:
        fail(str(error))
    print(", ".join(f"{name} {value}" for name, value in counts.items()))


if __name__ == "__main__":
    main()
