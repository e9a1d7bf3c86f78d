"""The recipes for a prepared folder: what its sizes say that each setting should be, and why.

The sizes lean on those that were tuned on public data: MovieLens-100K (97 thousand training interactions) and Amazon
Beauty (154 thousand), of recipes/ml-100k and recipes/beauty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

EPOCHS, STEPS = (3, 14), 5000
"""The fewest and the most epochs of SFT, and the optimizer steps that are aimed at between them."""
ALL_POSITIONS_ITEMS, SASREC_COST = 20_000, 2e10
"""Up to so many items flows are matched after every item of a history, and up to so many training interactions times
items SASRec, whose softmax is over all of them, is fitted: about two hours of a core."""
EVALUATED, REPEATS = 2000, 0.01
"""Users of an evaluation in training; the share of held-out targets that their user already has beyond which those are
ranked."""


class Line(NamedTuple):
    """One setting. why: what of the data it follows from, "" where it follows from nothing there."""

    name: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class Facts:
    """What the settings follow. longest: items of the longest training history. repeats: the share of held-out targets
    that their user already has. Counts of rows are those of the splits, events are training interactions."""

    items: int
    levels: int
    events: int
    train: int
    validation: int
    test: int
    longest: int
    repeats: float


@dataclass(frozen=True)
class Places:
    """Where things lie, as the recipes name them. data_recipe: whether the folder `recipes` has a data.yaml."""

    data: Path
    recipes: Path
    data_recipe: bool

    @property
    def base(self) -> Path:
        return self.data.parent

    @property
    def title(self) -> str:
        """What the data are called: like the folder above them."""
        return self.base.resolve().name

    def run(self, name: str) -> str:
        """A folder beside the data."""
        return str(self.base / name)

    def recipe(self, name: str) -> str:
        return str(self.recipes / f"{name}.yaml")

    @property
    def lines(self) -> list[Line]:
        """The lines of every recipe that say what it reads."""
        of = [Line("data_recipe", self.recipe("data"))] if self.data_recipe else []
        return [Line("data", str(self.data)), *of]


class Mass(NamedTuple):
    """The shares of a reward's mass after floor and temperature: on the target, the floor and the rest.

    rows: of how many training rows it is the mean.
    """

    temperature: float
    floor: float
    on_target: float
    on_floor: float
    rest: float
    rows: int


class Backbone(NamedTuple):
    """A GPT-2 for up to `events` training interactions."""

    events: float
    width: int
    layers: int
    heads: int
    learning_rate: float
    weight_decay: float


BACKBONES = (
    Backbone(1e5, 96, 2, 2, 4e-3, 0.1),
    Backbone(1e6, 128, 4, 4, 2e-3, 0.05),
    Backbone(1e7, 256, 6, 8, 1e-3, 0.05),
    Backbone(math.inf, 512, 8, 16, 5e-4, 0.05),
)


@dataclass(frozen=True)
class Sizes:
    """What several recipes share."""

    facts: Facts

    @property
    def backbone(self) -> Backbone:
        return next(one for one in BACKBONES if self.facts.events <= one.events)

    @property
    def max_history(self) -> int:
        return min(self.facts.longest, 50)

    @property
    def batch(self) -> int:
        """Prompts of an optimizer step."""
        return next(
            size for rows, size in ((5e3, 32), (1e5, 64), (1e6, 128), (math.inf, 256)) if self.facts.train < rows
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-self.facts.train // self.batch)

    @property
    def epochs(self) -> int:
        fewest, most = EPOCHS
        return max(fewest, min(most, round(STEPS / self.steps)))

    @property
    def stage(self) -> int:
        """Epochs of the GFlowNet stage."""
        return max(1, round(self.epochs / 7))

    @property
    def exclude_history(self) -> bool:
        return self.facts.repeats <= REPEATS

    @property
    def all_positions(self) -> bool:
        return self.facts.items <= ALL_POSITIONS_ITEMS

    @property
    def with_sasrec(self) -> bool:
        return self.facts.events * self.facts.items <= SASREC_COST


def backbone_line(sizes: Sizes) -> Line:
    one, facts = sizes.backbone, sizes.facts
    longest = 1 + (sizes.max_history + 1) * facts.levels
    table = {"model_type": "gpt2", "n_embd": one.width, "n_layer": one.layers, "n_head": one.heads}
    table |= {"n_positions": 2 ** math.ceil(math.log2(longest)), "resid_pdrop": 0.2, "embd_pdrop": 0.2}
    table |= {"attn_pdrop": 0.0, "activation_function": "gelu_pytorch_tanh"}
    why = (
        f"for {facts.events:,} training interactions; positions for {sizes.max_history} items and the next one, of "
        f"{facts.levels} codes each"
    )
    return Line("backbone", table, why)


def training_lines(sizes: Sizes, batch: int, epochs: int, rate: float, *, stops: bool) -> list[Line]:
    """What SFT and the stages after it have in common. stops: whether validation may end the training."""
    facts, steps = sizes.facts, -(-sizes.facts.train // batch)
    every, why_often = evaluation_lines(steps, epochs)
    return [
        Line("max_history", sizes.max_history, f"the longest training history has {facts.longest} items"),
        Line("global_batch_size", batch, f"{steps:,} steps an epoch of {facts.train:,} training rows"),
        Line("per_device_train_batch_size", 16),
        Line("per_device_eval_batch_size", 64),
        Line("num_train_epochs", epochs, f"{epochs * steps:,} steps" + (" unless validation stops before" * stops)),
        Line(
            "learning_rate", rate, f"for a width of {sizes.backbone.width}" + ("" if stops else ", a quarter of SFT's")
        ),
        Line("lr_scheduler_type", "cosine"),
        Line("warmup_steps", min(200, epochs * steps // 20), "a twentieth of the steps, at most 200"),
        Line("weight_decay", sizes.backbone.weight_decay),
        Line("beam_width", 50),
        exclude_line(sizes),
        *every,
        Line("eval_users", min(EVALUATED, facts.validation), f"of {facts.validation:,} validation rows; {why_often}"),
        Line("save_total_limit", 1),
        Line("load_best_model_at_end", True),
        Line("metric_for_best_model", "recall@10"),
        *([Line("early_stopping_patience", 3)] if stops else []),
        Line("logging_steps", max(1, min(50, steps // 5))),
        Line("seed", 42),
    ]


def evaluation_lines(steps: int, epochs: int) -> tuple[list[Line], str]:
    """When a run is evaluated and saved: after every epoch, or four times in each where there are few long ones."""
    if epochs >= 5 or steps < 400:
        often = [Line(name, "epoch") for name in ("eval_strategy", "save_strategy")]
        return often, f"{epochs} evaluation{'s' * (epochs > 1)}, one an epoch"
    often = [
        Line(f"{what}_{name}", value)
        for what in ("eval", "save")
        for name, value in (("strategy", "steps"), ("steps", steps // 4))
    ]
    return often, "four evaluations an epoch"


def exclude_line(sizes: Sizes) -> Line:
    share = f"{100 * sizes.facts.repeats:.1f} % of the held-out targets are items that the user already has"
    return Line("exclude_history", sizes.exclude_history, share)


def sft(sizes: Sizes, places: Places) -> str:
    return recipe(
        [
            f"{places.title}: supervised fine-tuning of a new GPT-2 until validation stops improving.",
            run_command(places, "sft"),
        ],
        [Line("method", "sft"), *places.lines, Line("output_dir", places.run("sft")), backbone_line(sizes)],
        training_lines(sizes, sizes.batch, sizes.epochs, sizes.backbone.learning_rate, stops=True),
    )


def sft_continued(sizes: Sizes, places: Places) -> str:
    return recipe(
        [
            f"{places.title}: the yardstick of gflownet.yaml. SFT goes on from the same checkpoint for twice as many",
            "epochs, about as long as the flows took on Amazon Beauty.",
            run_command(places, "sft_continued", places.run("sft")),
        ],
        [Line("method", "sft"), *places.lines, Line("output_dir", places.run("sft_continued"))],
        training_lines(sizes, 2 * sizes.batch, 2 * sizes.stage, sizes.backbone.learning_rate / 4, stops=False),
    )


def gflownet(sizes: Sizes, places: Places, mass: Mass) -> str:
    positions = (
        [
            Line(
                "flow_positions",
                "all",
                f"exact flows after every item of a history: {sizes.facts.items:,} items are few enough",
            )
        ]
        if sizes.all_positions
        else [
            Line("flow_positions", "target", f"after every item would be too much for {sizes.facts.items:,} items"),
            Line("random_cut", True),
        ]
    )
    shares = (
        f"{percent(mass.on_target)} of the reward on the target, {percent(mass.on_floor)} on the floor, "
        f"{percent(mass.rest)} on what the recommender expects (mean of {mass.rows} training rows)"
    )
    return recipe(
        [
            f"{places.title}: GFlowNet fine-tuning from the SFT checkpoint, L = L_SFT + flow_weight * L_flow.",
            "The reward is what the recommender expects and the item that the user took.",
            run_command(places, "gflownet", places.run("sft")),
            "Without --model it starts from the new backbone described below.",
        ],
        [
            *[Line("method", "gflownet"), *places.lines],
            Line("recommender", places.run("recommenders/mixture")),
            Line("recommender_recipe", places.recipe("recommenders")),
            Line("output_dir", places.run("gflownet")),
            backbone_line(sizes),
        ],
        [
            Line("objective", "flow_kl"),
            *positions,
            Line("samplers", {"target": 1}),
            Line("rewards", rewards(sizes)),
            Line("reward_floor", mass.floor, f"{sizes.facts.items:,} items at the floor weigh little"),
            Line("reward_temperature", mass.temperature, shares),
            Line("flow_weight", 1.0),
        ],
        training_lines(sizes, 2 * sizes.batch, sizes.stage, sizes.backbone.learning_rate / 4, stops=False),
    )


def rewards(sizes: Sizes) -> dict[str, Any]:
    """Where users take items again, those of the history have a reward too."""
    expected = 1.0 if sizes.exclude_history else {"weight": 1.0, "history": True}
    return {"collaborative": expected, "hit": 1.0}


def models(sizes: Sizes) -> Line:
    """The recommenders, those of the mixture before it."""
    table: dict[str, Any] = {"popularity": {}, "item_knn": {"neighbors": 100, "decay": 0.8}}
    table["als"] = {"dimensions": 128 if sizes.facts.items > 2000 else 64, "alpha": 3.0, "ridge": 30.0, "decay": 0.8}
    weights = {"als": 0.5, "item_knn": 0.5}
    if sizes.with_sasrec:
        table["sasrec"] = {"max_length": sizes.max_history, "dropout": 0.4, "learning_rate": 2e-3, "patience": 3}
        weights = {"sasrec": 0.75, "item_knn": 0.25}
    table["mixture"] = {"weights": weights}
    cost = f"{sizes.facts.events:,} training interactions and {sizes.facts.items:,} items"
    return Line("models", table, f"SASRec {'can' if sizes.with_sasrec else 'would take hours to'} be fitted on {cost}")


def recommenders(sizes: Sizes, places: Places) -> str:
    return recipe(
        [
            f"{places.title}: recommenders, as baselines and for the reward of gflownet.yaml.",
            f"  gflowgr recommenders --config {places.recipe('recommenders')}",
        ],
        [*places.lines, Line("output_dir", places.run("recommenders")), exclude_line(sizes), models(sizes)],
    )


def sweep(sizes: Sizes, places: Places) -> str:
    """The recipe of `reproduce`."""
    mixture, names = places.run("recommenders/mixture"), models(sizes).value
    table = {name: {"config": places.recipe(name)} for name in ("sft", "sft_continued", "gflownet")}
    for name in ("sft_continued", "gflownet"):
        table[name]["model"] = "sft"
    table["sft_guided"] = {"evaluate": "sft", "guide": mixture}
    shown = {"beam_width": 50, "exclude_history": sizes.exclude_history, "batch_size": 32}
    return recipe(
        [
            f"{places.title}: every method beside the recommenders. Interrupted, the same command goes on.",
            f"  gflowgr reproduce --config {places.recipe('reproduce')}",
            "--split validation compares on the validation items, on which settings are chosen.",
        ],
        [
            Line("name", places.title),
            Line("title", places.title),
            Line("docs", str(places.base / "results")),
            *places.lines,
            Line("recommender_recipe", places.recipe("recommenders")),
            Line("references", [places.run(f"recommenders/{name}") for name in reversed(names)]),
            Line("output_dir", places.run("compare")),
            Line("runs_dir", places.run("runs")),
        ],
        [
            Line("seeds", [42]),
            Line("jobs", 2),
            Line("baseline", "sft_continued"),
            Line("reward_of", "gflownet"),
            Line("split", "test", f"{sizes.facts.test:,} rows"),
            Line("evaluation", shown),
            Line("sweep", table),
        ],
    )


def data_recipe(places: Places, settings: Mapping[str, Any]) -> str:
    """How the folder was prepared, from the settings that its marker keeps."""
    return recipe(
        [f"{places.title}: how its data was prepared.", f"  gflowgr prepare --config {places.recipe('data')}"],
        [Line("output_dir", str(places.data)), *(Line(n, value) for n, value in settings.items() if value is not None)],
    )


def recipe(head: Sequence[str], *groups: Sequence[Line]) -> str:
    """The text of a recipe: comments, then groups of settings, each with what it follows from behind it."""
    return "\n".join([*(f"# {line}" for line in head), *("\n".join(map(written, group)) + "\n" for group in groups)])


def written(line: Line) -> str:
    """`name: value  # why`; a table of tables goes over several lines."""
    why = f"  # {line.why}" if line.why else ""
    if (
        isinstance(line.value, dict)
        and any(isinstance(value, dict) for value in line.value.values())
        and len(line.value) > 2
    ):
        rows = [f"  {name}: {flow(value)}" for name, value in line.value.items()]
        return "\n".join([f"{line.name}:{why}", *rows])
    return f"{line.name}: {flow(line.value)}{why}"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def run_command(places: Places, name: str, model: str | None = None) -> str:
    start = f" --model {model}" if model else ""
    return f"  gflowgr train --config {places.recipe(name)}{start}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"
