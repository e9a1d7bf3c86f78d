"""Recipes for prepared data of your own, with sizes that follow them: recommenders, SFT, GFlowNet, and all in a sweep.

python -m recipes.suggest --data runs/mine/data
python -m recipes.suggest --data runs/mine/data --output_dir runs/mine/recipes
"""

from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.arguments import SuggestArguments
from experiments.command_line import command, ending, parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, SuggestArguments)
    from experiments.suggest import suggest_recipes

    path = suggest_recipes(**vars(args))
    print(ending(path.parent, {}, command("reproduce", "--config", str(path))))


if __name__ == "__main__":
    main()
