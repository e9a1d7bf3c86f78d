"""Evaluated runs side by side, with item-kNN and popularity: a table, metrics.json and report.html.

python recipes/compare.py --config recipes/ml-100k/compare.yaml
python recipes/compare.py --runs runs/mine/* --output_dir runs/mine --title "Mine"
"""

from collections.abc import Sequence
from pathlib import Path

from recipes.cli import CompareArguments, fail, parse


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, CompareArguments)
    from recipes.measure import compare_runs

    try:
        table = compare_runs(args)
    except (ValueError, OSError) as error:
        fail(str(error))
    print(table)
    print(f"\n{Path(args.output_dir) / 'report.html'}")


if __name__ == "__main__":
    main()
