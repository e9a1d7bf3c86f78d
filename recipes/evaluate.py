"""Rank held-out items with a trained run and write what the comparison needs into its folder.

python recipes/evaluate.py --run runs/ml-100k/sft --data runs/ml-100k/data
python recipes/evaluate.py --run runs/ml-100k/sft --data runs/ml-100k/data --exact_users -1
"""

from collections.abc import Sequence

from experiments.arguments import EvaluateArguments
from experiments.command_line import parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, EvaluateArguments)
    from experiments.evaluate import evaluate_run

    metrics = evaluate_run(args)
    print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
