"""Say what a run needs on GPUs before it is started: memory, the launch recipe that fits, time. Computed, not measured.

python -m recipes.plan --model 7b --gpus 8 --vllm colocate
python -m recipes.plan --model all --gpus 1 8 64 1024
"""

from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.command_line import parse, program
from experiments.plan import PlanArguments, plan_page


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, PlanArguments)
    print(plan_page(args))


if __name__ == "__main__":
    main()
