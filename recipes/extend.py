"""Further items into a prepared folder: the catalog grows, and what was there keeps its semantic IDs and numbers.

python -m recipes.extend --data runs/mine/data --vectors new_items.npz --output_dir runs/mine/grown
"""

from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.command_line import ending, parse, program
from semantic_ids.settings import ExtendArguments


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, ExtendArguments)
    from semantic_ids import extend_prepared

    print(ending(args.output_dir, extend_prepared(**vars(args))))


if __name__ == "__main__":
    main()
