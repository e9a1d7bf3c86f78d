"""Look at this machine: versions, GPUs, drivers, what is missing or broken with its remedy, and what will be used.

Ends with status 1 where something is broken.

python -m recipes.doctor
python -m recipes.doctor --json
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.command_line import parse, program
from experiments.doctor import DoctorArguments, examine, report


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, DoctorArguments)
    with redirect_stdout(sys.stderr):  # DeepSpeed and vLLM say things of their own when they are imported
        findings = examine()
    print(report(findings, as_json=args.json))
    if any(finding.state == "broken" for finding in findings):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
