"""GFlowGR, one command a task.

prepare, extend, suggest, recommenders, train, evaluate, recommend, serve, compare, tune, reproduce,
export, plan, rollout_server, doctor

gflowgr prepare --config recipes/ml-100k/data.yaml
gflowgr train --config recipes/ml-100k/sft.yaml
gflowgr evaluate --run runs/ml-100k/sft --data runs/ml-100k/data
gflowgr recommend --model runs/ml-100k/sft --data runs/ml-100k/data --output recs.parquet
gflowgr COMMAND --help

recipes/... is found in any folder: the recipes come with the package.
"""

import importlib
import sys

from catalog.settings import check_known
from experiments.command_line import program

COMMANDS = (
    *("prepare", "extend", "suggest", "recommenders", "train", "evaluate", "recommend", "serve"),
    *("compare", "tune", "reproduce", "export", "plan", "rollout_server", "doctor"),
)


@program
def main() -> None:
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(__doc__.strip())
        return
    check_known(name, COMMANDS, f"{name!r} is not a command.", field="command", remedy=f"Give one of {COMMANDS}.")
    importlib.import_module(f"recipes.{name}").main(argv)


if __name__ == "__main__":
    main()
