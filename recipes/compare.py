"""Evaluated runs side by side, over seeds and with recommenders; a sweep trains and evaluates them first.

python recipes/compare.py --config recipes/ml-100k/compare.yaml
python recipes/compare.py --runs runs/mine/* --output_dir runs/mine_compared --title "Mine" --baseline sft_continued
"""

from collections.abc import Sequence

from recipes.arguments import CompareArguments
from recipes.cli import parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, CompareArguments)
    from recipes.comparison import compare_runs, comparison_folder
    from recipes.sweep import run_sweep

    table = compare_runs(args, args.runs or run_sweep(args))
    print(table)
    print(f"\n{comparison_folder(args) / 'report.html'}")


if __name__ == "__main__":
    main()
