"""The table of a data set from nothing but its files: data, recommenders, every method, and the results page.

python -m recipes.reproduce --config recipes/beauty/cpu.yaml --source data/amazon-beauty
python -m recipes.reproduce --config recipes/beauty/cpu.yaml --source data/amazon-beauty --smoke runs/smoke
"""

from collections.abc import Sequence
from pathlib import Path

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.arguments import ReproduceArguments
from experiments.command_line import browse, ending, parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, ReproduceArguments)
    from experiments import compare_runs, run_sweep
    from experiments.comparison import comparison_folder
    from experiments.results import preparation, rehearsal, write_results
    from semantic_ids import prepare

    if args.smoke:
        args = rehearsal(args)
    if not Path(args.data).exists():
        prepare(**vars(preparation(args)))
    table = compare_runs(run_sweep(args), **args.page)
    write_results(args)
    print(table)
    report = browse(comparison_folder(args.output_dir) / "report.html")
    print(f"\n{ending(Path(args.docs) / 'results.md', {}, report)}")


if __name__ == "__main__":
    main()
