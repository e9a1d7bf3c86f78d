"""Evaluated runs side by side, over seeds and with recommenders; a sweep trains and evaluates them first.

python -m recipes.compare --config recipes/ml-100k/compare.yaml
python -m recipes.compare --runs runs/mine/* --output_dir runs/mine_compared --title "Mine" --baseline sft_continued
"""

from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.arguments import CompareArguments
from experiments.command_line import browse, ending, parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, CompareArguments)
    from experiments import compare_runs, run_sweep
    from experiments.comparison import comparison_folder

    print(compare_runs(args.runs or run_sweep(args), **args.page))
    folder = comparison_folder(args.output_dir)
    print(f"\n{ending(folder, {}, browse(folder / 'report.html'))}")


if __name__ == "__main__":
    main()
