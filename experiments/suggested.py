"""Where the recipes for prepared data of one's own lie, and when they are written."""

from collections.abc import Sequence
from pathlib import Path

from catalog.errors import InputError
from experiments.arguments import SuggestArguments
from experiments.command_line import is_given, setting
from experiments.recipe_file import load_recipe

SWEEP = "reproduce"
"""The recipe that is written last: where it is there, all are."""


def with_recipes(argv: Sequence[str]) -> list[str]:
    """The command line of `reproduce`; where it names prepared data and no recipe, with the recipe beside the data.

    It is written where it is not there. Raises InputError as `suggest_recipes` does, and where that recipe is of other
    data.
    """
    if {"-h", "--help"} & set(argv) or is_given(argv, "config") or not (data := setting(argv, "data")):
        return list(argv)
    path = SuggestArguments(data=data).folder / f"{SWEEP}.yaml"
    if not path.is_file():
        from experiments.suggest import suggest_recipes  # loads torch

        suggest_recipes(data)
    elif (kept := load_recipe(path).get("data")) != data and Path(str(kept)).resolve() != Path(data).resolve():
        raise InputError(
            f"{path} is a recipe of {kept}, and not of {data}.",
            remedy=f"Write those of {data} elsewhere: gflowgr suggest --data {data} --output_dir FOLDER.",
            file=path,
            field="data",
            value=kept,
        )
    return ["--config", str(path), *argv]
