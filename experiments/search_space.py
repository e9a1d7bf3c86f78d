"""What a search tries of each setting: a range of numbers or a list of choices."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog.errors import InputError
from catalog.settings import check_known
from experiments.setting_tables import Setting


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; log: their logarithms are drawn. whole: whole numbers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> list[Any]:
        """The values that show whether a program takes all of them."""
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def suggest(self, trial: Any, name: str) -> Any:
        """The value that a trial of Optuna shall have."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def stored(self, value: Any) -> Any:
        """A value as Optuna keeps it."""
        return value

    read = stored


@dataclass(frozen=True)
class Choices:
    """Some values, which may be tables and lists too."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> list[Any]:
        return list(self.values)

    def holds(self, value: Any) -> bool:
        return self.stored(value) in map(self.stored, self.values)

    def suggest(self, trial: Any, name: str) -> Any:
        return self.read(trial.suggest_categorical(name, [self.stored(value) for value in self.values]))

    def stored(self, value: Any) -> str:
        """As JSON: Optuna compares choices, and 1 equals true."""
        return json.dumps(value)

    def read(self, value: Any) -> Any:
        """What was stored."""
        return json.loads(value)


Space = Mapping[str, Range | Choices]
"""Setting -> what is tried of it."""


def read_space(method: str, search: Any, known: Mapping[str, Setting], own: set[str]) -> Space:
    """The `search` of a method. known: its settings. own: those that the search itself gives each trial.

    Raises InputError for a setting that the method does not have, and for what is no range and no list.
    """
    where = f"methods: {method}: search"
    if not isinstance(search, dict) or not search:
        raise InputError(
            f"{where} is missing or empty.",
            remedy="Write for instance {learning_rate: {low: 1e-4, high: 1e-2, log: true}}.",
            field="search",
            value=search,
        )
    for name in search:
        check_known(name, known, f"{where}: {name!r} is not a setting of {method}.", field="search")
        if name in own:
            raise InputError(
                f"{where}: {name} is not to be chosen.", remedy="Leave it out.", field="search", value=name
            )
    return {name: _read(f"{where}: {name}", some, known[name]) for name, some in search.items()}


def _read(where: str, some: Any, setting: Setting) -> Range | Choices:
    if isinstance(some, list):
        values = tuple(some)
        if len(values) < 2 or len({json.dumps(value) for value in values}) < len(values):
            raise InputError(f"{where}={some}: give two values or more, each once.", field="search", value=some)
        return Choices(values)
    if not isinstance(some, dict) or not {"low", "high"} <= some.keys() or some.keys() - {"low", "high", "log"}:
        raise InputError(
            f"{where}={some!r}: it must be a list of choices or a table of low, high and log.",
            field="search",
            value=some,
        )
    if setting.value not in ("N", "X"):
        raise InputError(
            f"{where}: {setting.name} is no number ({setting.value}).",
            remedy="Give a list of choices.",
            field="search",
            value=some,
        )
    low, high, log, whole = some["low"], some["high"], some.get("log", False), setting.value == "N"
    numbers = all(isinstance(end, int if whole else int | float) and not isinstance(end, bool) for end in (low, high))
    if not (numbers and isinstance(log, bool) and low < high and (low > 0 or not log)):
        raise InputError(
            f"{where}={some}: low must be below high{', above 0' if log else ''}, both "
            f"{'whole numbers' if whole else 'numbers'}, and log true or false.",
            field="search",
            value=some,
        )
    return Range(low, high, log, whole)
