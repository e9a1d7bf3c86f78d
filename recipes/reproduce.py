"""The table of a data set from nothing but its files: data, recommenders, every method, and the results page.

python recipes/reproduce.py --config recipes/beauty/cpu.yaml --source data/amazon-beauty
python recipes/reproduce.py --config recipes/beauty/cpu.yaml --source data/amazon-beauty --smoke runs/smoke
"""

from collections.abc import Sequence
from pathlib import Path

from recipes.cli import parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    from recipes.results import ReproduceArguments, preparation, rehearsal, write_results

    (args,) = parse(argv, ReproduceArguments)
    from recipes.comparison import compare_runs
    from recipes.parts import prepare
    from recipes.sweep import run_sweep

    if args.smoke:
        args = rehearsal(args)
    if not Path(args.data).exists():
        prepare(preparation(args))
    table = compare_runs(args, run_sweep(args))
    write_results(args)
    print(table)
    print(f"\n{Path(args.docs) / 'results.md'}")


if __name__ == "__main__":
    main()
