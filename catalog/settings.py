"""Checks of settings: the kind of each value against its annotation, and what a name or a number may be."""

import difflib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from catalog.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WORDS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    NoneType: "nothing",
}


@dataclass
class Arguments:
    """Settings that are checked against their annotations; a table that came as JSON text is read."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if isinstance(value := getattr(self, name), str) and _is_table(kind):
                setattr(self, name, as_table(name, value))
        check_values(self)


def _is_table(kind: object) -> bool:
    return any(get_origin(member) is dict for member in get_args(kind))


def check_values(settings: "DataclassInstance", without: Collection[str] = ()) -> None:
    """Raise InputError for the first field of a dataclass instance whose value its annotation does not allow.

    A closed list is a `Literal`, an `Enum` or the `choices` of the field's metadata. Defaults and the fields in
    `without` are not checked.
    """
    kinds = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in without or (type(value) is type(default) and value == default):
            continue
        choices = field.metadata.get("choices")
        check_value(field.name, value, Literal[tuple(choices)] if choices else kinds[field.name])


def check_value(name: str, value: object, kind: object, where: str = "") -> None:
    """Raise InputError where `value` is not of the annotation `kind`.

    where: the setting whose table holds `name`, which then is the error's field.
    """
    if not fits(value, kind):
        asked = f"{where}: {name}={value!r}" if where else f"{name}={value!r}"
        raise InputError(
            f"{asked}: it must be {expected(kind)}.",
            remedy=_nearest(str(value), [str(choice) for choice in _choices(kind)]),
            field=where or name,
            value=value,
        )


def fits(value: object, kind: object) -> bool:
    """Whether a value is of an annotation: a number is finite, true is no number, an `Enum` also takes its values."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin in (Union, UnionType):
        return any(fits(value, member) for member in _members(kind))
    if origin is not None:
        return _fits_generic(value, origin, inner)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return value in [*kind, *(member.value for member in kind)]
    if kind in (int, float):
        return not isinstance(value, bool) and isinstance(value, Integral if kind is int else Real) and _finite(value)
    if kind is str:
        return isinstance(value, str | os.PathLike)
    return not isinstance(kind, type) or isinstance(value, kind)


def _fits_generic(value: object, origin: object, inner: tuple[Any, ...]) -> bool:
    if not isinstance(origin, type):
        return True
    if issubclass(origin, Mapping):
        key, content = inner
        return isinstance(value, Mapping) and all(fits(k, key) and fits(v, content) for k, v in value.items())
    if origin in (list, set, frozenset):
        return isinstance(value, list | tuple | set | frozenset) and all(fits(one, inner[0]) for one in value)
    return True  # a callable, a protocol: nothing that a recipe could hold


def _finite(value: Real) -> bool:
    return isinstance(value, Integral) or math.isfinite(value)


def _members(kind: object) -> tuple[Any, ...]:
    """The kinds of a union. `str` beside an `Enum` is left out, since it stands for the values of the enum."""
    inner = get_args(kind)
    closed = any(isinstance(member, type) and issubclass(member, Enum) for member in inner)
    return tuple(member for member in inner if not (closed and member is str))


def _choices(kind: object) -> list[object]:
    """What a closed list allows; [] for an annotation that is no closed list."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return [choice for member in _members(kind) for choice in _choices(member)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [member.value for member in kind]
    return []


def expected(kind: object) -> str:
    """An annotation in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(expected(member) for member in _members(kind) if member is not NoneType))
    if choices := _choices(kind):
        return f"one of {choices}"
    if origin in (list, set, frozenset):
        return f"a list, each of it {expected(inner[0])}"
    if kind is dict or origin in (dict, Mapping):
        return "a table" + (f", each of it {expected(inner[1])}" if inner and inner[1] is not Any else "")
    return WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def check_table(where: str, table: Mapping[str, object], kinds: Mapping[str, object], what: str) -> None:
    """Raise InputError for a key of the table `where` that `kinds` does not know, or a value of another kind.

    kinds: the annotation of each key. what: what the settings belong to, in words.
    """
    for name, value in table.items():
        if name not in kinds:
            raise InputError(
                f"{where}: {name!r} is not a setting of {what}.",
                remedy=_nearest(str(name), kinds) or f"It has {', '.join(kinds) or 'none'}.",
                field=where,
                value=name,
            )
        check_value(name, value, kinds[name], where)


def check_known(name: str, known: Collection[str], problem: str, *, field: str, remedy: str = "") -> None:
    """Raise InputError with `problem` and the nearest known name where `name` is not known."""
    if name not in known:
        raise InputError(problem, remedy=_nearest(name, known) or remedy, field=field, value=name)


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"Did you mean {near[0]}?" if near else ""


def at_least(settings: object, bound: float, *names: str, strictly: bool = False) -> None:
    """Raise InputError for the first of these settings that is a number below `bound`; with `strictly` also for
    `bound` itself."""
    for name in names:
        value = getattr(settings, name)
        if value is None:
            continue
        within = value > bound if strictly else value >= bound
        if not within:
            limit = f"above {bound}" if strictly else f"at least {bound}"
            raise InputError(f"{name}={value}: it must be {limit}.", field=name, value=value)


def as_table(name: str, value: object, default: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A setting that a recipe gives as a table and the command line as JSON; `default` for none.

    Raises InputError for a value that is no table, repeats a key or holds NaN or an infinity.
    """
    if isinstance(value, str):
        try:
            value = json.loads(
                value, object_pairs_hook=lambda pairs: _unrepeated(name, pairs), parse_constant=_no_number
            )
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{name}={value!r} is not JSON: {error}.",
                remedy=f"Write for instance --{name} '{json.dumps(default or {'name': 'value'})}'.",
                field=name,
                value=value,
            ) from error
    if value is None:
        return dict(default or {})
    if not isinstance(value, Mapping):
        raise InputError(f"{name}={value!r} is not a table of names and values.", field=name, value=value)
    return dict(value)


def _unrepeated(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"{name}: {twice!r} is given twice.", remedy="Leave one out.", field=name, value=twice)
    return table


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no finite number")


def check_name(what: str, name: object) -> None:
    """Raise InputError for a name that could lead out of its folder, where it becomes that of a folder or file.

    what: the setting that holds the name; it is the error's field.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0\s.][^/\\\0]*", name) or re.match(r"[A-Za-z]:", name):
        raise InputError(
            f"{what}: {name!r} cannot be the name of a folder.",
            remedy="Give text without / and \\ that begins with neither a dot nor a space.",
            field=what,
            value=name,
        )


def annotations(build: Callable[..., object]) -> dict[str, Any]:
    """The annotation of each argument of a class or function, Any for one without."""
    hints = get_type_hints(build.__init__ if isinstance(build, type) else build)  # type: ignore[misc]
    return {name: hints.get(name, Any) for name in inspect.signature(build).parameters}
