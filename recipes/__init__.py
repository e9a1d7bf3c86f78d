"""Recipes (YAML) and the programs: plan, prepare, recommenders, train, serve, evaluate, compare, reproduce, export.

`arguments` says what each can be told, `recipe_file` reads YAML and `cli` makes checked dataclasses of both. `parts`
and `backbone` build catalogue, splits and models. `measure` and `match` rank a run and compare it with a reward, and
`evaluations` keeps what came out. `sweep` with `sweep_settings` and `stages` trains what a comparison lacks, and
`comparison` writes it. `trl_rows` gives rows TRL's form. Every recipe begins with the command that runs it.
"""

import importlib.util
from pathlib import Path

PACKAGES = (
    *("catalog", "interactions", "policy", "recommenders", "rewards", "samplers", "evaluation"),
    *("trainer", "recipes"),
)


def check_packages() -> None:
    """End the program, by name, where another file hides one of our packages: a rewards.py on PYTHONPATH, say."""
    root = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != root / name / "__init__.py":
            found = "nothing" if spec is None else spec.origin or [*(spec.submodule_search_locations or ())][0]
            raise SystemExit(
                f"error: Python finds {found} under the name {name}, which is a package of GFlowGR. Give that file or "
                "folder another name, or take its folder off PYTHONPATH."
            )


check_packages()
