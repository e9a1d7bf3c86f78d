"""The table of a data set from nothing but its files: data, recommenders, every method, and the results page.

python recipes/reproduce.py --config recipes/beauty/cpu.yaml --source data/amazon-beauty
python recipes/reproduce.py --config recipes/beauty/cpu.yaml --source data/amazon-beauty --smoke runs/smoke
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    from experiments.results import ReproduceArguments, preparation, rehearsal, write_results

    (args,) = parse(argv, ReproduceArguments)
    from semantic_ids import prepare

    from experiments.comparison import compare_runs
    from experiments.sweep import run_sweep

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
