"""Search the settings of methods and recommenders on validation items, with the same budget for each.

python -m recipes.tune --config recipes/ml-100k/tune.yaml
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.command_line import browse, command, ending, parse, program
from experiments.tune_arguments import TuneArguments


@program
def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    (args,) = parse(argv, TuneArguments)
    from experiments.sweep_settings import flags
    from experiments.tune import tune

    found = tune(args, argv)["methods"]
    figures = {f"{name} {args.metric}": row["value"] for name, row in found.items()}
    following = [browse(Path(args.output_dir) / "report.html")]
    for name, row in found.items():
        base = {key: value for key, value in args.table[name].items() if key != "search"}
        if "config" in base:
            following.append(command("train", *flags(base | {"data": args.data} | row["settings"])))
    print(ending(Path(args.output_dir) / "chosen.yaml", figures, *following))


if __name__ == "__main__":
    main()
