"""Recipe files and command lines into checked dataclasses, and how a program ends."""

import argparse
import errno
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, NoReturn, ParamSpec, get_args, get_origin, get_type_hints

from catalog.errors import GFlowGRError, InputError, SetupError
from catalog.settings import as_table, check_known
from experiments.recipe_file import load_recipe

__all__ = ["as_table", "check_torchvision", "fail", "parse", "program", "read_recipe", "setting"]

P = ParamSpec("P")


def parse(argv: Sequence[str] | None, *types: Any) -> tuple[Any, ...]:
    """Instances of the dataclasses `types` from `--config recipe.yaml` and overriding `--name value` pairs.

    `--name=value` is the same as `--name value`, and a value in a recipe the same as on the command line; what a
    dataclass refuses it refuses whatever way the value came. Raises InputError naming a setting that no dataclass has,
    with the nearest one, or the setting whose value is refused.
    """
    check_torchvision()
    from trl import TrlParser

    argv = list(sys.argv[1:] if argv is None else argv)
    # not the fields' own, which the parser overwrites
    kinds = {name: kind for dataclass in types for name, kind in get_type_hints(dataclass).items()}
    fields = {
        name: kinds[name]
        for dataclass in types
        for name in dataclass.__dataclass_fields__
        if get_origin(kinds[name]) is not ClassVar
    }
    recipe, given = read_recipe(argv), _given(argv)
    _set_environment(recipe.pop("env", None))
    for name in [*recipe, *(name for name in given if name not in ("config", "help"))]:
        denied = name.removeprefix("no_")
        if name in recipe or denied not in fields or denied == name:
            problem = f"{name} is not a setting."
            check_known(str(name), fields, problem, field=str(name), remedy="See --help.")
    parser: Any = TrlParser(types, exit_on_error=False, allow_abbrev=False)
    parser.error = _refuse
    parser.set_defaults_with_config(**{name: _listed(value, fields[name]) for name, value in recipe.items()})
    try:
        *parsed, rest = parser.parse_args_into_dataclasses(
            _without_config(argv), return_remaining_strings=True, look_for_args_file=False
        )
    except argparse.ArgumentError as error:
        if error.argument_name is None:  # one is missing: Python 3.13 raises here what 3.11 handed to parser.error
            _refuse(error.message)
        name = str(error.argument_name).split("/")[0].removeprefix("--")
        raise InputError(
            f"{name}: {error.message}.", remedy="See --help.", field=name, value=given.get(name, recipe.get(name))
        ) from error
    if rest:
        raise InputError(f"{rest[0]!r} is no setting.", remedy="Settings begin with --.", value=rest[0])
    return tuple(parsed)


def _refuse(message: str) -> NoReturn:
    named = re.search(r"--(\w+)", message)
    raise InputError(f"{message}.", remedy="See --help.", field=named and named[1])


def _given(argv: Sequence[str]) -> dict[str, str | None]:
    """What a command line says of each setting, the last word first: name -> the text behind it, None without."""
    given: dict[str, str | None] = {}
    for word, after in zip(argv, [*argv[1:], None], strict=False):
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            given[name] = text if equals else after
    return given


def _without_config(argv: Sequence[str]) -> list[str]:
    """A command line without the recipe it names."""
    return [
        word
        for before, word in zip([None, *argv], argv, strict=False)
        if before != "--config" and word.partition("=")[0] != "--config"
    ]


def _set_environment(table: Any) -> None:
    if not isinstance(table, Mapping | None):
        raise InputError(f"env={table!r} is not a table of variables.", field="env", value=table)
    os.environ.update({str(name): str(value) for name, value in (table or {}).items()})


def _listed(value: Any, kind: Any) -> Any:
    """A value of a recipe; one that stands alone where only a list can stand is a list of it, as on a command line."""
    members = get_args(kind) if get_origin(kind) is not list else (kind,)
    wants_list = any(get_origin(member) is list for member in members) and str not in members
    return [value] if wants_list and isinstance(value, str | int | float) else value


def check_torchvision() -> None:
    """Raise SetupError where torchvision is broken: transformers then fails to import, and does not say why."""
    if importlib.util.find_spec("torchvision"):
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:  # "operator torchvision::nms does not exist"
            raise SetupError(
                "torchvision was built for another torch; the CPU build of vLLM brings such a one.",
                remedy="Run pip uninstall -y torchvision torchaudio torchcodec: nothing here needs them.",
            ) from error


def read_recipe(argv: Sequence[str]) -> dict[str, Any]:
    """The content of the file behind --config, {} without one. Raises InputError."""
    given = _given(argv)
    if "config" not in given:
        return {}
    path = given["config"]
    if not path or path.startswith("--"):
        raise InputError("--config names no recipe.", remedy="Give the path of a YAML file.", field="config")
    return load_recipe(Path(path))


def setting(argv: Sequence[str], name: str) -> Any:
    """One setting ahead of parsing, the command line before the recipe."""
    given = _given(argv)
    return given[name] if name in given else read_recipe(argv).get(name)


def program(main: Callable[P, None]) -> Callable[P, None]:
    """A `main` that ends with one sentence for what the user can mend, and with a traceback for a mistake of ours."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except GFlowGRError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("Interrupted.")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            fail(f"{error.filename or 'A file'} could not be written ({error.strerror}). Free space there.")

    return run


def fail(message: str) -> NoReturn:
    """End the program with one sentence and no traceback."""
    raise SystemExit(f"error: {message}")
