"""Names of a package that are imported when they are asked for, so that its settings and errors cost no torch."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(package: str, places: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package's `__init__`.

    package: its name. places: module inside it -> the names that the package gives from there. The same names stand in
    the `__init__` behind TYPE_CHECKING, for readers and type checkers.
    """
    module_of = {name: module for module, names in places.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
