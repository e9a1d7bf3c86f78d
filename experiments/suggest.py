"""Recipes for a prepared folder of one's own: read, measured on the reward, and written beside it."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from catalog import DENSE_ITEMS, Catalog, word_tokenizer
from catalog.errors import InputError
from catalog.files import complete, sealed
from catalog.settings import check_name
from experiments.arguments import RecommenderArguments, SuggestArguments
from experiments.command_line import parse
from experiments.evaluate import fit_recommenders
from experiments.suggested import SWEEP
from experiments.suggested_settings import (
    Facts,
    Mass,
    Places,
    Sizes,
    data_recipe,
    gflownet,
    recommenders,
    rewards,
    sft,
    sft_continued,
    sweep,
)
from interactions import PromptBuilder, Splits, load_prepared, training_counts, training_sequences
from interactions.rows import sample_rows, unrankable
from interactions.split import NAMES
from recommenders import BatchRecommender, load_recommender
from rewards import RewardParts, build_rewards
from samplers import TargetSampler
from trainer.methods.gflownet import REWARD_ITEMS
from trainer.scoring.target import MASS, Target

TEMPERATURES, FLOORS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12), (1e-3, 1e-4, 1e-5, 1e-6)
"""What is tried, the flattest target and the highest floor first."""
TARGET_MASS, FLOOR_MASS = 0.1, 0.02
"""The target's share of the reward is to be at least the one, that of the floor at most the other. Of Amazon Beauty's
temperatures the one with a target's share of 0.14 had the best accuracy, and 0.44 the best variety."""

FEWEST = 20
"""Rows that each split has at least."""


def suggest_recipes(data: str | Path, output_dir: str | Path | None = None) -> Path:
    """Write the recipes for a prepared folder; the path of the one that `reproduce` runs.

    The recommenders are fitted first, into the folder `recommenders` beside the data, since the temperature of the
    reward follows from what they expect; `reproduce` finds them there.

    Args:
        data: the prepared folder.
        output_dir: of the recipes; by default `recipes` beside the data.

    Raises:
        InputError: the folder is not prepared, holds too few rows, or `output_dir` holds other recipes.
    """
    args = SuggestArguments(data=str(data), output_dir=None if output_dir is None else str(output_dir))
    catalog, splits = load_prepared(args.data)
    check_held_out(args.data, splits)
    settings = preparing(Path(args.data), catalog)
    places = Places(Path(args.data), args.folder, bool(settings))
    check_name("data", places.base.resolve().name)
    sizes = Sizes(facts(catalog, splits))
    before = {"recommenders": recommenders(sizes, places)}
    if settings:
        before["data"] = data_recipe(places, settings)
    write(places, before | {"sft": sft(sizes, places), "sft_continued": sft_continued(sizes, places)})
    (models,) = parse(["--config", places.recipe("recommenders")], RecommenderArguments)
    fit_recommenders(**vars(models))
    mass = choose(list(masses(catalog, splits, sizes, Path(models.output_dir) / "mixture")))
    write(places, {"gflownet": gflownet(sizes, places, mass), SWEEP: sweep(sizes, places)})
    return Path(places.recipe(SWEEP))


def check_held_out(data: str, splits: Splits) -> None:
    """Raise InputError where a split has fewer than FEWEST rows."""
    rows = {name: len(getattr(splits, name)) for name in NAMES}
    if few := [name for name in NAMES if rows[name] < FEWEST]:
        raise InputError(
            f"{data} has {rows[few[0]]} {few[0]} rows: with fewer than {FEWEST} no method can be told from another.",
            remedy="Prepare a longer log, or one with a smaller min_interactions.",
            file=data,
            field=few[0],
            value=rows[few[0]],
        )


def preparing(data: Path, catalog: Catalog) -> dict[str, Any]:
    """The settings that the folder was prepared with; {} where they do not make it again."""
    kept = sealed(data, "The prepared folder")["settings"]
    again = not catalog.grown_from and (kept.get("log") or kept.get("validation"))
    return dict(kept) if again else {}


def facts(catalog: Catalog, splits: Splits) -> Facts:
    """What the settings follow."""
    held_out = [getattr(splits, name) for name in NAMES if name != "train"]
    lost = sum(int(unrankable(rows).sum()) for rows in held_out)
    return Facts(
        items=len(catalog),
        levels=catalog.trie.levels,
        events=int(training_counts(splits, len(catalog)).sum()),
        train=len(splits.train),
        validation=len(splits.validation),
        test=len(splits.test),
        longest=max(map(len, splits.train["history"][:])),
        repeats=lost / sum(map(len, held_out)),
    )


def masses(catalog: Catalog, splits: Splits, sizes: Sizes, recommender: Path) -> Iterator[Mass]:
    """How the reward of the recipe divides itself at each of TEMPERATURES and FLOORS, on a sample of training rows."""
    asked = BatchRecommender(load_recommender(recommender, catalog, splits.rows))
    whole: Literal["dense", "sparse"] = "dense" if len(catalog) <= DENSE_ITEMS else "sparse"
    named = REWARD_ITEMS if whole == "sparse" else 0
    reward = build_rewards(rewards(sizes), RewardParts(catalog, asked, reward_items=named))
    prompts = PromptBuilder(catalog, word_tokenizer(catalog.trie.sizes), sizes.max_history)
    rows = sample_rows(splits.train, max(32, min(256, 20_000_000 // len(catalog)))).to_list()
    users = {row.get("user") for row in rows}
    user_items = {row["user"]: row["history"] for row in training_sequences(splits) if row["user"] in users}
    if "user" in rows[0]:
        rows = [row | {"user_items": user_items[row["user"]]} for row in rows]
    target = TargetSampler(catalog.trie)
    found: dict[tuple[float, float], list[Tensor]] = {}
    for start in range(0, len(rows), 32):
        batch = prompts(rows[start : start + 32])
        taken = target.sample(batch, 1, 0)
        for temperature, floor in product(TEMPERATURES, FLOORS):
            now = {"reward_temperature": temperature, "reward_floor": floor}
            mass = Target(reward, catalog.trie, now.__getitem__, whole=whole, exact=False).score(batch, taken)[1]
            found.setdefault((temperature, floor), []).append(torch.stack([mass[name] for name in MASS], 1))
    for (temperature, floor), parts in found.items():
        on_target, on_floor, rest = torch.cat(parts).mean(0).tolist()
        yield Mass(temperature, floor, on_target, on_floor, rest, len(rows))


def choose(found: Sequence[Mass]) -> Mass:
    """The flattest target distribution that still has TARGET_MASS on the target; where none has, the sharpest.

    Each at the highest floor that weighs no more than FLOOR_MASS, or else at the lowest.
    """
    light: dict[float, Mass] = {}
    for mass in found:
        if mass.temperature not in light or light[mass.temperature].on_floor > FLOOR_MASS:
            light[mass.temperature] = mass
    return next((mass for mass in light.values() if mass.on_target >= TARGET_MASS), list(light.values())[-1])


def write(places: Places, texts: dict[str, str]) -> None:
    """Write recipes that are not there yet. Raises InputError before the first is written, where one differs."""
    paths = {Path(places.recipe(name)): text for name, text in texts.items()}
    if other := [path for path, text in paths.items() if path.exists() and path.read_text(encoding="utf-8") != text]:
        raise InputError(
            f"{other[0]} holds other content than what would be written there.",
            remedy="Move it away, or give another folder as output_dir.",
            file=other[0],
            field="output_dir",
        )
    for path, text in paths.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with complete(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
