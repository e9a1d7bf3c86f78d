"""Evaluated runs side by side, over seeds and with recommenders; a sweep trains and evaluates them first.

python recipes/compare.py --config recipes/ml-100k/compare.yaml
python recipes/compare.py --runs runs/mine/* --output_dir runs/mine_compared --title "Mine" --baseline sft_continued
"""

from collections.abc import Sequence

from experiments.arguments import CompareArguments
from experiments.command_line import parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, CompareArguments)
    from experiments.comparison import compare_runs, comparison_folder
    from experiments.sweep import run_sweep

    table = compare_runs(args, args.runs or run_sweep(args))
    print(table)
    print(f"\n{comparison_folder(args) / 'report.html'}")


if __name__ == "__main__":
    main()
