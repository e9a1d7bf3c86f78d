"""The prepared rows in TRL's own formats, as a `datasets.DatasetDict` of train, validation and test on disk.

python -m recipes.export --data runs/ml-100k/data --output_dir runs/ml-100k/trl --kind completion
python -m recipes.export --data runs/ml-100k/data --output_dir runs/ml-100k/trl-pairs --kind preference --negatives 1

`prompt` is the start token and the codes of the newest `max_history` items, `completion` and `chosen` are the codes of
the target, `rejected` those of an item that a sampler draws; `target_text` is the target's codes once more, because
TRL hands no `completion` to reward functions. All columns of the rows come along. The folder's `tokenizer` turns prompt
and completion, apart or together, into exactly the tokens that the trainers here read, and adds none of its own.

What TRL does differently: it appends the end-of-text token to every completion, so its models learn L + 1 tokens where
ours learn L; semantic IDs have a fixed length and need no end.
"""

import shlex
from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.arguments import ExportArguments
from experiments.command_line import ending, parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, ExportArguments)
    from experiments import export_rows

    counts = export_rows(**vars(args))
    load = f"import datasets; print(datasets.load_from_disk({args.output_dir!r}))"
    print(ending(args.output_dir, counts, shlex.join(["python", "-c", load])))


if __name__ == "__main__":
    main()
