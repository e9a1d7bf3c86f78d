"""The table of a data set from nothing but its files: data, recommenders, every method, and the results page.

python -m recipes.reproduce --config recipes/beauty/cpu.yaml --source data/amazon-beauty
python -m recipes.reproduce --config recipes/beauty/cpu.yaml --source data/amazon-beauty --smoke runs/smoke
python -m recipes.reproduce --data runs/mine/data

Data alone are prepared data of your own: their recipes are written beside them, where they are not there yet.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.arguments import ReproduceArguments
from experiments.command_line import browse, ending, parse, program
from experiments.suggested import with_recipes


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(with_recipes(sys.argv[1:] if argv is None else argv), ReproduceArguments)
    from experiments import compare_runs, run_sweep
    from experiments.comparison import comparison_folder
    from experiments.results import preparation, rehearsal, write_results
    from semantic_ids import prepare

    if args.smoke:
        args = rehearsal(args)
    if not Path(args.data).exists():
        prepare(**vars(preparation(args)))
    table = compare_runs(run_sweep(args), **args.page)
    page = write_results(args)
    print(table)
    report = browse(comparison_folder(args.output_dir) / "report.html")
    print(f"\n{ending(page, {}, report)}")


if __name__ == "__main__":
    main()
