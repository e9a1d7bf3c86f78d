"""Recipe files and command lines into checked dataclasses, and how a program ends."""

import difflib
import errno
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import yaml

from catalog.errors import GFlowGRError, InputError

P = ParamSpec("P")


def parse(argv: Sequence[str] | None, *types: Any) -> tuple[Any, ...]:
    """Instances of the dataclasses `types` from `--config recipe.yaml` and overriding `--name value` pairs.

    A name that no dataclass has ends the program with the nearest one that exists; so does a value that is refused.
    """
    check_torchvision()
    from trl import TrlParser

    argv = list(sys.argv[1:] if argv is None else argv)
    known = {name for kind in types for name in kind.__dataclass_fields__}
    given = [*read_recipe(argv), *(arg[2:].split("=")[0] for arg in argv if arg.startswith("--"))]
    for name in given:
        if name not in known | {"config", "help", "env"} and name.removeprefix("no_") not in known:
            near = difflib.get_close_matches(name, known, 1)
            fail(f"{name} is not a setting." + (f" Did you mean {near[0]}?" if near else " See --help."))
    try:
        parsed = TrlParser(types).parse_args_and_config(argv)
    except (ValueError, FileNotFoundError) as error:
        fail(str(error))
    return parsed


def as_table(name: str, value: dict[str, Any] | str | None) -> dict[str, Any]:
    """A setting that a recipe gives as a table and the command line as JSON; {} for none. Raises InputError."""
    try:
        return json.loads(value) if isinstance(value, str) else value or {}
    except json.JSONDecodeError as error:
        raise InputError(f"{name}={value!r} is not JSON: {error}.", field=name, value=value) from error


def check_torchvision() -> None:
    """End the program where torchvision is broken: transformers then fails to import, and does not say why."""
    if importlib.util.find_spec("torchvision"):
        try:
            importlib.import_module("torchvision")
        except RuntimeError:  # "operator torchvision::nms does not exist"
            fail(
                "torchvision was built for another torch; the CPU build of vLLM brings such a one. "
                "Run pip uninstall -y torchvision torchaudio torchcodec: nothing here needs them."
            )


def read_recipe(argv: Sequence[str]) -> dict[str, Any]:
    """The content of the file behind --config, {} without one."""
    if "--config" not in argv[:-1]:
        return {}
    path = Path(argv[argv.index("--config") + 1])
    if not path.is_file():
        fail(f"The recipe {path} does not exist.")
    try:
        recipe = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        fail(f"The recipe {path} is not valid YAML: {error}")
    if not isinstance(recipe, dict):
        fail(f"The recipe {path} is not a table of settings. Write one `name: value` a line.")
    return recipe


def setting(argv: Sequence[str], name: str) -> str | None:
    """One setting ahead of parsing, the command line before the recipe."""
    if f"--{name}" in argv[:-1]:
        return argv[argv.index(f"--{name}") + 1]
    return read_recipe(argv).get(name)


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
