"""Recipes (YAML) and the programs: prepare, extend, suggest, recommenders, train, evaluate, recommend, serve, compare,
tune, reproduce, export, plan, rollout_server and doctor.

Every recipe begins with the command that runs it. What the programs do is in `experiments`; `__main__` is `gflowgr`.
"""

import importlib.util
from pathlib import Path

# before a program imports it: all other packages are checked by `experiments` itself
_found = importlib.util.find_spec("experiments")
if _found is None or _found.origin != str(Path(__file__).resolve().parents[1] / "experiments" / "__init__.py"):
    _place = _found and (_found.origin or next(iter(_found.submodule_search_locations or ())))
    raise SystemExit(
        f"error: Python finds {_place} under the name experiments, which is a package of GFlowGR. Give that file or "
        "folder another name, or start gflowgr, which does not look into the current folder."
    )
