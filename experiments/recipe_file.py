"""A recipe file into a table of settings."""

import re
from pathlib import Path
from typing import Any

import yaml

from catalog.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, and 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise InputError(
                    f"The recipe {self.name}, line {line}: {key.value} is given twice.",
                    remedy="Leave one out.",
                    file=self.name,
                    row=line,
                    field=key.value,
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def find_recipe(path: Path) -> Path:
    """A recipe's file: recipes/... also is one of this project, whatever folder the program is started in."""
    ours = RECIPES.parent / path
    return ours if path.parts[:1] == ("recipes",) and not path.exists() and ours.is_file() else path


def load_recipe(path: Path) -> dict[str, Any]:
    """The settings of a recipe. Raises InputError, naming file and line, for what is no table of them."""
    path = find_recipe(path)
    if not path.is_file():
        raise InputError(f"The recipe {path} does not exist.", remedy="Correct the path.", file=path, field="config")
    try:
        with path.open(encoding="utf-8") as file:
            recipe = yaml.load(file, _Loader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(
            f"The recipe {path} is not valid YAML: {error}.",
            remedy="Write it in UTF-8, one `name: value` a line.",
            file=path,
            row=None if mark is None else mark.line + 1,
        ) from error
    if not isinstance(recipe, dict):
        raise InputError(
            f"The recipe {path} is not a table of settings.", remedy="Write one `name: value` a line.", file=path
        )
    return recipe
