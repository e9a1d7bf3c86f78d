"""What the programs in recipes/ do: their settings, and sweeps, stages, comparisons and pages of results.

From Python: `evaluate_run`, `recommend_users`, `compare_runs`, `run_sweep`, `fit_recommenders`, `suggest_recipes` and
`export_rows`.

- `arguments`, `server_arguments`, `recipe_file`, `command_line`: YAML and command lines into checked dataclasses, and
  how a program ends
- `setting_tables`: names, kinds, defaults and help of settings, without torch
- `train`: the trainer that a recipe describes; `serve`, `rollout_server`: the apps of the servers
- `evaluate`, `match`, `evaluations`: rank a run, compare it with a reward, keep what came out
- `recommend`, `recommend_arguments`, `recommendations`, `launched`: a policy recommends into a file, on any processes
- `sweep`, `sweep_settings`, `stages`: train and evaluate what a comparison lacks
- `suggest`, `suggested_settings`, `suggested`: recipes for a prepared folder of one's own
- `comparison`, `results`: the pages
- `tune`, `tune_arguments`, `search_space`, `tune_methods`, `fit_trial`: a search of settings
- `tune_results`, `chosen`: what a search leaves, and how a recipe takes it up
- `plan`, `memory`: what a run needs on GPUs; `doctor`: what this machine has and lacks
- `programs`: every program with its settings
- `trl_rows`: rows in TRL's form
"""

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    *(
        "catalog",
        "interactions",
        "policy",
        "recommenders",
        "serving",
        "semantic_ids",
        "rewards",
        "samplers",
        "evaluation",
    ),
    *("trainer", "experiments", "recipes"),
)


def hide_programs() -> None:
    """Take recipes/ off the path, where Python puts the folder of a program: recommenders.py would hide the package.

    It may be that of a checkout whose packages are installed elsewhere.
    """
    sys.path[:] = [folder for folder in sys.path if not _holds_programs(Path(folder).resolve())]


def _holds_programs(folder: Path) -> bool:
    return folder.name == "recipes" and (folder / "recommenders.py").is_file()


def check_packages() -> None:
    """End the program, by name, where another file hides one of our packages: a rewards.py on PYTHONPATH, say."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != ROOT / name / "__init__.py":
            found = "nothing" if spec is None else spec.origin or [*(spec.submodule_search_locations or ())][0]
            raise SystemExit(
                f"error: Python finds {found} under the name {name}, which is a package of GFlowGR. Give that file or "
                "folder another name, or take its folder off PYTHONPATH."
            )


hide_programs()
check_packages()

from catalog.on_demand import on_demand  # noqa: E402  # of ours, as was checked

if TYPE_CHECKING:
    from experiments.comparison import compare_runs
    from experiments.evaluate import evaluate_run, fit_recommenders
    from experiments.recommend import recommend_users
    from experiments.suggest import suggest_recipes
    from experiments.sweep import run_sweep
    from experiments.trl_rows import export_rows
else:
    __getattr__ = on_demand(
        __name__,
        {
            "comparison": ("compare_runs",),
            "evaluate": ("evaluate_run", "fit_recommenders"),
            "recommend": ("recommend_users",),
            "suggest": ("suggest_recipes",),
            "sweep": ("run_sweep",),
            "trl_rows": ("export_rows",),
        },
    )

__all__ = [
    "compare_runs",
    "evaluate_run",
    "export_rows",
    "fit_recommenders",
    "recommend_users",
    "run_sweep",
    "suggest_recipes",
]
