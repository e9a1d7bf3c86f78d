"""What each program can be told; `experiments.command_line.parse` fills these from a recipe and the command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from catalog.errors import InputError
from catalog.settings import Arguments, as_table, at_least, check_known, check_name
from evaluation.ranking import EVAL_K, check_cutoffs
from experiments.chosen import with_chosen

REHEARSED_USERS = 60
"""Of so many users a rehearsal of `reproduce.py` is."""


@dataclass
class ExportArguments(Arguments):
    """What `export.py` can be told."""

    data: str = field(metadata={"help": "Folder that prepare.py wrote."})
    output_dir: str = field(metadata={"help": "Folder for the datasets, with the tokenizer in it."})
    kind: Literal["completion", "preference"] = field(
        default="completion",
        metadata={"help": "Columns beside the rows' own: prompt and completion; or prompt, chosen and rejected."},
    )
    max_history: int = field(default=20, metadata={"help": "How many of a user's newest items the prompt holds."})
    prompt_template: str | None = field(
        default=None,
        metadata={"help": "Text around the codes of the history, as in training; needs `model` for its words."},
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Whose tokenizer writes the text: a run's folder, a local path or a hub name; codes it lacks are "
            "added. By default a tokenizer of nothing but the codes."
        },
    )
    negatives: int = field(default=1, metadata={"help": "Of kind preference: rows with a rejected item per row."})
    sampler: Literal["random", "interactions", "curriculum"] = field(
        default="random",
        metadata={"help": "Where rejected items come from; curriculum draws as at the end of training, the hard ones."},
    )
    recommender: str | None = field(
        default=None, metadata={"help": "Folder of the fitted recommender that curriculum asks."}
    )
    seed: int = field(default=0, metadata={"help": "Of the rejected items."})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "negatives", "max_history")
        at_least(self, 0, "seed")
        if self.prompt_template and not self.model:
            raise InputError(
                "prompt_template: without a model the tokenizer has no words but the codes.",
                remedy="Name a pretrained one as model, or leave the text out.",
                field="prompt_template",
            )


@dataclass
class RecommenderArguments(Arguments):
    """What `recommenders.py` can be told."""

    data: str = field(metadata={"help": "Folder that prepare.py wrote."})
    output_dir: str = field(metadata={"help": "Folder of folders: each model's is called like the model."})
    models: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Name -> settings, in the order of fitting. The name is the kind of model too, unless the settings "
            "have a `kind`; a mixture's `weights` and the `of` of cross_fitted name models before it."
        },
    )
    data_recipe: str | None = field(
        default=None, metadata={"help": "Recipe to prepare `data` with where the folder does not exist yet."}
    )
    chosen: str | None = field(
        default=None, metadata={"help": "chosen.yaml of tune.py, whose settings the models of the same names get."}
    )
    only: list[str] | None = field(default=None, metadata={"help": "Names of the models to fit; by default all."})
    exclude_history: bool = field(default=True, metadata={"help": "Leave items the user already has out."})
    eval_users: int | None = field(
        default=None,
        metadata={"help": "How many users to rank, at random but the same ones every time; by default all."},
    )
    eval_k: list[int] = field(
        default_factory=lambda: list(EVAL_K),
        metadata={"help": "Cut-offs: recall of each, NDCG of those above 1 (by default 5 and 10), MRR of the largest."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "eval_users")
        self.eval_k = check_cutoffs(self.eval_k)
        for name, settings in self.table.items():
            check_name("models", name)
            if not isinstance(settings, dict | None):
                raise InputError(
                    f"models: {name}: {settings!r} is not a table of settings.", field="models", value=settings
                )
        for name in self.only or ():
            problem = f"only: {name!r} is not one of the models {list(self.table)}."
            check_known(name, self.table, problem, field="only")

    @property
    def table(self) -> dict[str, Any]:
        """`models`, which a recipe gives as a table and the command line as JSON, with what was chosen."""
        table = as_table("models", self.models)
        return with_chosen("models", table, self.chosen) if self.chosen else table

    def needed(self, name: str) -> list[str]:
        """The models to fit for `name`, in this order: what a mixture or a cross-fitted model is made of before it."""
        settings, names = dict(self.table.get(name) or {}), list(self.table)
        parts = [*settings.get("weights", {}), *filter(None, [settings.get("of")])]
        before = names[: names.index(name)] if name in names else []
        made = [part for of in parts for part in (self.needed(of) if of in before else [of])]
        return list(dict.fromkeys([*made, name]))


@dataclass
class RunArguments(Arguments):
    """What `train.py` can be told beside the method's own config."""

    method: str = field(metadata={"help": "sft, dpo, sdpo, grpo or gflownet."})
    data: str = field(metadata={"help": "Folder that prepare.py wrote."})
    data_recipe: str | None = field(
        default=None, metadata={"help": "Recipe to prepare `data` with where the folder does not exist yet."}
    )
    recommender_recipe: str | None = field(
        default=None,
        metadata={
            "help": "Recipe to fit the folder of `recommender`, and those beside it, where it does not exist yet."
        },
    )
    model: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: a run's folder, a local path or a hub name."}
    )
    backbone: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Without `model`: a new backbone, for instance {model_type: gpt2, n_embd: 64, n_layer: 4}."},
    )
    lora: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Train low-rank adapters and the codes' embeddings only: arguments of peft.LoraConfig, for "
            "instance {r: 16, lora_alpha: 32, target_modules: all-linear}."
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "Check everything, print a summary and stop."})

    def __post_init__(self) -> None:
        super().__post_init__()
        from policy.config import backbone_config, load_lora  # transformers takes its time

        if self.backbone:
            backbone_config(self.backbone)
        load_lora(self.lora)


@dataclass
class EvaluateArguments(Arguments):
    """What `evaluate.py` can be told."""

    run: str = field(metadata={"help": "Folder of a finished run."})
    data: str = field(metadata={"help": "Folder that prepare.py wrote."})
    split: Literal["validation", "test"] = field(default="test", metadata={"help": "Which held-out items to rank."})
    beam_width: int = field(default=100, metadata={"help": "Width of the trie-constrained beam."})
    eval_k: list[int] = field(
        default_factory=lambda: list(EVAL_K),
        metadata={
            "help": "Cut-offs, at most beam_width: recall of each, NDCG of those above 1 (by default 5 and 10), MRR of "
            "the largest."
        },
    )
    exclude_history: bool = field(default=True, metadata={"help": "Leave items the user already has out."})
    eval_users: int | None = field(
        default=None,
        metadata={"help": "How many users to rank, at random but the same ones every time; by default all."},
    )
    exact_users: int = field(
        default=0,
        metadata={
            "help": "Compare the beam's top 10 with the exact ranking of the catalog on this many users, -1 all."
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Users per forward."})
    normalization: Literal["trie", "vocabulary"] = field(
        default="trie",
        metadata={
            "help": "What a beam adds up: log-probabilities among the codes that may follow, or those of the whole "
            "vocabulary, as searches do that only mask what may not follow. For models trained with the same."
        },
    )
    reward_of: str | None = field(
        default=None,
        metadata={
            "help": "Run whose reward the policy's distribution is compared with, so that several runs share one; "
            "by default this run's own."
        },
    )
    guide: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a fitted recommender for guided decoding: each step of the beam also counts "
            "guide_weight * log of the share of the model's probability that lies below the node."
        },
    )
    guide_weight: float = field(default=1.0, metadata={"help": "Weight of the guide against the policy, > 0."})
    guide_floor: float = field(
        default=1e-5, metadata={"help": "Smallest probability of an item that the guide gives, > 0."}
    )
    guide_confidence: float = field(
        default=0.0,
        metadata={
            "help": "A user's weight of the guide is guide_weight * c ^ this; c is 1 - entropy / log(items) of its "
            "probabilities for that user."
        },
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the metrics: by default the run's own, with a guide the run's name + _guided, with "
            "normalization: vocabulary + _vocabulary."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "guide_weight", "guide_floor", strictly=True)
        at_least(self, 0, "guide_confidence")
        at_least(self, 1, "batch_size", "eval_users")
        at_least(self, -1, "exact_users")
        self.eval_k = check_cutoffs(self.eval_k, self.beam_width)
        if self.exact_users:
            at_least(self, 10, "beam_width")  # whose top 10 is compared
        if self.normalization == "vocabulary" and (self.exact_users or self.guide):
            raise InputError(
                "normalization=vocabulary: exact_users and guide are of probabilities in the trie.",
                remedy="Set one of the two.",
                field="normalization",
                value=self.normalization,
            )


@dataclass
class CompareArguments(Arguments):
    """What `compare.py` can be told: folders of runs, or a sweep whose runs it trains where they are missing."""

    output_dir: str = field(
        metadata={"help": "Folder for the folder `comparison` with metrics.json, table.md and report.html."}
    )
    runs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Folders of evaluated runs. A method is called like its folder; folders called seed_N are seeds of "
            "the method that the folder above is called like."
        },
    )
    references: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders that recommenders.py wrote: rows for reference."},
    )
    title: str = field(default="Comparison", metadata={"help": "Title of the report."})
    baseline: str | None = field(
        default=None, metadata={"help": "Method that the others are tested against, user by user; by default none is."}
    )
    eval_k: list[int] | None = field(
        default=None,
        metadata={
            "help": "Cut-offs to compare at, within the ranked lists; by default those that all evaluations have."
        },
    )
    data: str | None = field(
        default=None,
        metadata={"help": "Folder that prepare.py wrote; by default the one that the first run was trained on."},
    )
    sweep: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Instead of runs: method -> {config: recipe of train.py, model: method or checkpoint to start "
            "from}, or {evaluate: method to evaluate in another way}. Further keys are settings of train.py or "
            "evaluate.py."
        },
    )
    chosen: str | None = field(
        default=None,
        metadata={"help": "Of a sweep: chosen.yaml of tune.py, whose settings the methods of the same names get."},
    )
    runs_dir: str | None = field(
        default=None,
        metadata={"help": "Of a sweep: folder for the runs, which sweeps can share; by default output_dir."},
    )
    seeds: list[int] = field(default_factory=lambda: [42], metadata={"help": "Of a sweep: seeds of each method."})
    jobs: int = field(default=1, metadata={"help": "Of a sweep: stages side by side, which share the cores."})
    reward_of: str | None = field(
        default=None,
        metadata={"help": "Of a sweep: method whose reward, of the same seed, all policies are compared with."},
    )
    split: Literal["validation", "test"] = field(
        default="test",
        metadata={"help": "The held-out items that are compared: settings are chosen on validation, and told on test."},
    )
    evaluation: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Settings of evaluate.py for all methods of a sweep, for instance {eval_k: [5, 10, 20]}."},
    )
    data_recipe: str | None = field(
        default=None, metadata={"help": "Of a sweep: recipe to prepare `data` with where it does not exist yet."}
    )
    recommender_recipe: str | None = field(
        default=None,
        metadata={"help": "Of a sweep: recipe to fit the recommenders with that do not exist yet."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.table:
            check_name("sweep", name)
        if bool(self.runs) == bool(self.table):
            raise InputError("Give either runs, the folders to compare, or sweep, the methods to train.")
        if self.table and not self.data:
            raise InputError("data is missing: a sweep needs the folder that prepare.py wrote, or where it is to go.")
        at_least(self, 1, "jobs")
        if self.eval_k is not None:
            self.eval_k = check_cutoffs(self.eval_k)
        if min(self.seeds, default=0) < 0:
            raise InputError(f"seeds={self.seeds}: they must be at least 0.", field="seeds", value=self.seeds)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds={self.seeds}: give at least one, and each once.", field="seeds", value=self.seeds)

    @property
    def table(self) -> dict[str, Any]:
        """`sweep`, which a recipe gives as a table and the command line as JSON, with what was chosen."""
        table = as_table("sweep", self.sweep)
        return with_chosen("sweep", table, self.chosen) if self.chosen else table

    @property
    def how(self) -> dict[str, Any]:
        """`evaluation`, likewise."""
        return as_table("evaluation", self.evaluation)

    @property
    def page(self) -> dict[str, Any]:
        """What `compare_runs` is given beside the runs."""
        names = ("output_dir", "split", "references", "title", "baseline", "data", "eval_k")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class ReproduceArguments(CompareArguments):
    """What `reproduce.py` can be told: a sweep of `compare.py`, the files it begins with, and where its table goes."""

    source: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the data set's files, under the names that data_recipe has; by default they are where "
            "it says."
        },
    )
    name: str = field(metadata={"help": "What the files of its results are called."})
    published: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Rows of other people's papers: name -> metric -> value."}
    )
    docs: str = field(
        default="docs/results",
        metadata={"help": "Folder of the results: page NAME.md, numbers NAME.json, figure NAME.svg."},
    )
    smoke: str | None = field(
        default=None,
        metadata={"help": f"Rehearse in this folder: one seed, two steps a method, the first {REHEARSED_USERS} users."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("name", self.name)
        if not self.table:
            raise InputError(
                "reproduce.py needs a sweep.", remedy="Give a recipe, or prepared data alone.", field="sweep"
            )
        if not self.data_recipe and (self.smoke or not Path(str(self.data)).exists()):
            raise InputError(
                "data_recipe is missing: nothing says how to prepare the data"
                + (", and a rehearsal prepares a part of them." if self.smoke else "."),
                remedy="Give one.",
                field="data_recipe",
            )


@dataclass
class SuggestArguments(Arguments):
    """What `suggest.py` can be told."""

    data: str = field(metadata={"help": "Folder that prepare.py wrote."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for the recipes; by default `recipes` beside the data."}
    )

    @property
    def folder(self) -> Path:
        """Where the recipes go."""
        return Path(self.output_dir or Path(self.data).parent / "recipes")
