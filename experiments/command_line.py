"""Recipe files and command lines into checked dataclasses, and how a program begins and ends."""

import argparse
import errno
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, get_args, get_origin, get_type_hints

from catalog.errors import GFlowGRError, InputError, SetupError
from catalog.settings import check_known
from experiments.recipe_file import load_recipe
from experiments.setting_tables import Group, groups_of, names

P = ParamSpec("P")


class HelpAsked(Exception):
    """Raised by `answer` for --help; `program` prints what the program is for and these settings."""

    def __init__(self, groups: Sequence[Group]) -> None:
        super().__init__()
        self.groups = groups


def answer(argv: Sequence[str], groups: Sequence[Group]) -> None:
    """What needs no more than the names of the settings: --help, and a setting that there is not.

    Raises HelpAsked, or InputError with the nearest name for a setting of the recipe or the command line.
    """
    if {"-h", "--help"} & set(argv):
        raise HelpAsked(groups)
    known, recipe = names(groups), read_recipe(argv)
    for name in [*(name for name in recipe if name != "env"), *(name for name in _given(argv) if name != "config")]:
        denied = name.removeprefix("no_")
        if name in recipe or denied not in known or denied == name:
            problem = f"{name} is not a setting."
            check_known(str(name), known, problem, field=str(name), remedy="See --help.")


def parse(argv: Sequence[str] | None, *types: Any) -> tuple[Any, ...]:
    """Instances of the dataclasses `types` from `--config recipe.yaml` and overriding `--name value` pairs.

    `--name=value` is the same as `--name value`, `--a-name` as `--a_name`, and a value in a recipe as on the command
    line; what a dataclass refuses it refuses whatever way the value came. Raises InputError naming a setting that no
    dataclass has, with the nearest one, or the setting whose value is refused.
    """
    argv = _underscored(sys.argv[1:] if argv is None else argv)
    answer(argv, [group for kind in types for group in groups_of(kind)])
    check_torchvision()
    from trl import TrlParser

    # not the fields' own, which the parser overwrites
    kinds = {name: kind for dataclass in types for name, kind in get_type_hints(dataclass).items()}
    recipe, given = read_recipe(argv), _given(argv)
    _set_environment(recipe.pop("env", None))
    parser: Any = TrlParser(types, exit_on_error=False, allow_abbrev=False)
    parser.error = _refuse
    parser.set_defaults_with_config(**{name: _listed(value, kinds[name]) for name, value in recipe.items()})
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


def _underscored(argv: Sequence[str]) -> list[str]:
    """A command line in which --a-name is written --a_name."""

    def renamed(word: str) -> str:
        name, equals, text = word.partition("=")
        return "--" + name[2:].replace("-", "_") + equals + text

    return [renamed(word) if word.startswith("--") else word for word in argv]


def _refuse(message: str) -> NoReturn:
    named = re.search(r"--(\w+)", message)
    raise InputError(f"{message}.", remedy="See --help.", field=named and named[1])


def _given(argv: Sequence[str]) -> dict[str, str | None]:
    """What a command line says of each setting, the last word first: name -> the text behind it, None without."""
    given: dict[str, str | None] = {}
    argv = _underscored(argv)
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


def is_given(argv: Sequence[str], name: str) -> bool:
    """Whether the command line itself has a setting."""
    return name in _given(argv)


def program(main: Callable[P, None]) -> Callable[P, None]:
    """A `main` that ends with one sentence for what the user can mend, and with a traceback for a mistake of ours.

    Asked for --help it prints the docstring of its file and the settings.
    """

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            without_foreign_bars()
            main(*args, **kwargs)
        except HelpAsked as asked:
            sys.stdout.write(help_text(main.__globals__["__doc__"] or "", asked.groups))
            raise SystemExit(0) from None
        except GFlowGRError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("Interrupted.")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            fail(f"{error.filename or 'A file'} could not be written ({error.strerror}). Free space there.")

    return run


def without_foreign_bars() -> None:
    """Without a terminal, keep the bars of transformers and datasets, which redraw themselves, out of the log."""
    if not sys.stderr.isatty():
        for library in ("HF_HUB", "HF_DATASETS"):  # transformers follows huggingface_hub; both read it when imported
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")


def help_text(purpose: str, groups: Sequence[Group]) -> str:
    """What --help prints: the purpose, and every setting with what it takes, what it means and its default."""
    width = min(shutil.get_terminal_size().columns, 120)
    parser = argparse.ArgumentParser(
        add_help=False,
        usage=argparse.SUPPRESS,
        description=f"{purpose.strip()}\n\nSettings, as --name value, or as `name: value` in the file of --config:",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=width),
    )
    for group in groups:
        section = parser.add_argument_group(group.heading)
        for setting in group.settings:
            default = "required" if setting.default is None else f"default: {setting.default}"
            said = f"{setting.help} ({default})" if setting.help else f"({default})"
            section.add_argument(f"--{setting.name}", metavar=setting.value, help=said.replace("%", "%%"))
    return parser.format_help()


def command(name: str, *argv: str) -> str:
    """The command line of another program, in the way in which this one was started."""
    ours = ("gflowgr", name) if Path(sys.argv[0]).stem == "gflowgr" else ("python", "-m", f"recipes.{name}")
    return shlex.join([*ours, *argv])


def browse(page: Path) -> str:
    """The command line that shows a page."""
    return shlex.join(["python", "-m", "webbrowser", str(page)])


def ending(output: str | Path, figures: Mapping[str, Any], *following: str) -> str:
    """The last lines of a program: where its output lies, its main figures and the next command to run."""
    shown = ", ".join(
        f"{n} {value:.4f}" if isinstance(value, float) else f"{n} {value}" for n, value in figures.items()
    )
    lines = [f"Figures: {shown}"] if figures else []
    return "\n".join([f"Output: {output}", *lines, *(f"Next: {line}" for line in following)])


def fail(message: str) -> NoReturn:
    """End the program with one sentence and no traceback."""
    raise SystemExit(f"error: {message}")
