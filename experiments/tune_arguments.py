"""What `tune.py` can be told."""

from dataclasses import dataclass, field
from typing import Any, Literal

from catalog.errors import InputError
from catalog.settings import Arguments, as_table, at_least, check_name


@dataclass
class TuneArguments(Arguments):
    """What `tune.py` can be told: methods, what to try of each, and the budget, which is the same for all of them."""

    data: str = field(metadata={"help": "Folder that prepare.py wrote. Its test items are not read."})
    output_dir: str = field(metadata={"help": "Folder for the search; one that was interrupted goes on."})
    methods: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Name -> {config: recipe of train.py} or {kind: a recommender}, with `search`: setting -> "
            "[choices] or {low: 1e-4, high: 1e-2, log: true}. Further keys are settings of all its trials."
        },
    )
    data_recipe: str | None = field(
        default=None, metadata={"help": "Recipe to prepare `data` with where the folder does not exist yet."}
    )
    title: str = field(default="Search of settings", metadata={"help": "Title of the page."})
    metric: str = field(
        default="ndcg@10", metadata={"help": "What is looked for the most of, on the validation items."}
    )
    exclude_history: bool = field(
        default=True, metadata={"help": "Leave items the user already has out, for every method alike."}
    )
    trials: int = field(default=20, metadata={"help": "How many settings each method may try."})
    seconds: float | None = field(
        default=None, metadata={"help": "How long the trials of each method may take together; by default as they do."}
    )
    trial_seconds: float | None = field(
        default=None,
        metadata={"help": "How long a trial may take: then it ends, and counts with what it has reached."},
    )
    pruner: Literal["median", "hyperband", "none"] = field(
        default="median",
        metadata={
            "help": "Which trials end early: those below the median of the others at the same evaluation, or by "
            "hyperband's brackets."
        },
    )
    jobs: int = field(default=1, metadata={"help": "Trials side by side, which share the cores; each has a GPU."})
    seed: int = field(default=0, metadata={"help": "Of the search; trials have the seed of their recipe."})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "trials", "jobs")
        at_least(self, 0, "seed")
        at_least(self, 0, "seconds", "trial_seconds", strictly=True)
        if not self.table:
            raise InputError("methods is empty.", remedy="Name a method and what to search of it.", field="methods")
        for name, settings in self.table.items():
            check_name("methods", name)
            if not isinstance(settings, dict) or ("config" in settings) == ("kind" in settings):
                raise InputError(
                    f"methods: {name} needs either config, a recipe to train, or kind, a kind of recommender.",
                    field="methods",
                    value=name,
                )

    @property
    def table(self) -> dict[str, Any]:
        """`methods`, which a recipe gives as a table and the command line as JSON."""
        return as_table("methods", self.methods)
