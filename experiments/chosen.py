"""The settings that tune.py chose, put into a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from experiments.recipe_file import load_recipe


def with_chosen(what: str, table: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The table `what` of a recipe, name -> settings, with what a chosen.yaml has of the same names put in.

    Raises InputError where the file is none, names what the table does not have, or both say something of one setting.
    """
    methods = load_recipe(Path(path)).get("methods")
    if not isinstance(methods, dict) or not all(isinstance(settings, dict) for settings in methods.values()):
        raise InputError(
            f"chosen={path}: it has no methods with settings.", remedy="Give a chosen.yaml of tune.py.", field="chosen"
        )
    merged = {name: dict(settings or {}) for name, settings in table.items()}
    if not methods.keys() & merged.keys():
        raise InputError(
            f"chosen={path}: none of {list(methods)} is in {what}, which has {list(merged)}.",
            remedy="Call them alike.",
            field="chosen",
            value=path,
        )
    for name in methods.keys() & merged.keys():
        for setting, value in methods[name].items():
            if merged[name].get(setting, value) != value:
                raise InputError(
                    f"{what}: {name}: {setting} is {merged[name][setting]} there and {value} in {path}.",
                    remedy="Leave one out.",
                    field="chosen",
                    value=setting,
                )
        merged[name] |= methods[name]
    return merged
