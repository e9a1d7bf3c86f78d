"""What `reproduce.py` writes into the pages: the table of a data set beside what others published."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from catalog.files import complete, read_json, write_json
from catalog.settings import as_table
from evaluation.figures import method_styles, standalone, tradeoff_figure
from evaluation.metric_help import in_order
from evaluation.significance import PairedTest
from evaluation.tables import markdown, metric_table, significance_table
from experiments.arguments import REHEARSED_USERS, ReproduceArguments
from experiments.command_line import parse, read_recipe, setting
from experiments.comparison import comparison_folder
from experiments.stages import TIMES
from semantic_ids.preparation import FILES
from semantic_ids.settings import HISTORIES, DataArguments

FETCHED = "movielens-100k"
"""What `log` can be beside a file."""
ASKED = ("recommender", "guide")
"""Settings of a method that name a folder beside the data."""
SHOWN = ("unseen_recall@10", "unseen_ndcg@10", "coverage@10", "gini@10", "drawn_recall@10", "seconds")
"""What is shown beside recall and NDCG, of them all but recall@1."""


def preparation(args: ReproduceArguments) -> DataArguments:
    """How to prepare the data set from the files in `source`. Raises InputError for one that is missing."""
    recipe = read_recipe(["--config", str(args.data_recipe)])
    named = {name: Path(recipe[name]) for name in FILES if recipe.get(name, HISTORIES) not in (HISTORIES, FETCHED)}
    files = {name: Path(args.source) / path.name if args.source else path for name, path in named.items()}
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        raise InputError(
            f"{missing[0]} does not exist.",
            remedy=f"Give the folder with {', '.join(f.name for f in files.values())} as source.",
        )
    flags = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    (settings,) = parse(["--config", str(args.data_recipe), "--output_dir", str(args.data), *flags], DataArguments)
    return replace(settings, users=REHEARSED_USERS) if args.smoke and settings.log else settings


def rehearsal(args: ReproduceArguments) -> ReproduceArguments:
    """The same at the size of a test, all in the folder `smoke`; what would lie beside `data` lies there instead."""
    usual, folder = Path(str(args.data)).parent, str(args.smoke)

    def moved(place: Any) -> Any:
        inside = place and Path(place).is_relative_to(usual)
        return str(Path(folder) / Path(place).relative_to(usual)) if inside else place

    sweep = {}
    for method, settings in args.table.items():
        sweep[method] = settings | {name: moved(settings[name]) for name in ASKED if name in settings}
        if "config" in settings:
            sweep[method] |= {"max_steps": 2, "save_strategy": "no", "warmup_steps": 0, "load_best_model_at_end": False}
            if asked := moved(setting(["--config", settings["config"]], "recommender")):
                sweep[method].setdefault("recommender", asked)
    paths = {name: moved(getattr(args, name)) for name in ("data", "output_dir", "runs_dir")}
    references = [moved(reference) for reference in args.references]
    return replace(args, **paths, references=references, sweep=sweep, chosen=None, seeds=args.seeds[:1], docs=folder)


def write_results(args: ReproduceArguments) -> Path:
    """The page NAME.md, the numbers NAME.json and the figure NAME.svg in `docs`, from the comparison in `output_dir`.

    What is written into the page stands between `<!-- NAME -->` and `<!-- end of NAME -->`; a new page holds that and
    its title. NAME ends in `_validation` where the validation rows were ranked. Returns the page's path.
    """
    args = replace(args, name=args.name if args.split == "test" else f"{args.name}_{args.split}")
    record = read_json(comparison_folder(args.output_dir) / "metrics.json", "The comparison")
    docs = Path(args.docs)
    methods = {
        m: {n: {k: v for k, v in value.items() if k != "seeds"} for n, value in row.items()}
        for m, row in record["methods"].items()
    }
    write_json(docs / f"{args.name}.json", methods)
    if figure := tradeoff_figure(_seeds(record), method_styles(record["methods"])):
        with complete(docs / f"{args.name}.svg") as temporary:
            temporary.write_text(standalone(figure))
    path = docs / f"{args.name}.md"
    page = path.read_text() if path.is_file() else f"# {args.title}\n"
    start, end = f"<!-- {args.name} -->", f"<!-- end of {args.name} -->"
    part = f"{start}\n{_part(args, record)}\n{end}"
    old = re.compile(f"{re.escape(start)}.*{re.escape(end)}", re.DOTALL)
    page = old.sub(lambda _: part, page) if old.search(page) else f"{page.rstrip()}\n\n{part}\n"
    with complete(path) as temporary:
        temporary.write_text(page)
    return path


def _part(args: ReproduceArguments, record: Mapping[str, Any]) -> str:
    published: dict[str, Any] = as_table("published", args.published)
    values = _seeds(record) | {name: {n: [value] for n, value in row.items()} for name, row in published.items()}
    guided = [m for m, settings in args.table.items() if "guide" in settings]
    references = [Path(reference).name for reference in args.references]
    sections = {
        "Guided decoding: the beam also follows a recommender": guided,
        "For reference: recommenders": references,
        "As others published it": list(published),
    }
    tests = {n: {m: PairedTest(**t) for m, t in record["tests"][n].items()} for n in record["tests"] if "@" in n}
    how = record["protocol"]["ranking"]
    seeds = f"seed{'s' if len(args.seeds) > 1 else ''} {', '.join(map(str, args.seeds))}"
    lines = [
        f"{how['users']:,} {how['split']} rows, held out: {how['held_out']}; a hit is one {how['hit']}; "
        f"beam of {how['beam_width']}; "
        f"items of the history are {'not ' if how['exclude_history'] else ''}ranked; {seeds}. {_hours(args)}",
        markdown(
            metric_table(values, {heading: names for heading, names in sections.items() if names}, _shown(record))
        ),
        f"![Accuracy against variety on {args.title}]({args.name}.svg)",
    ]
    if tests:
        lines += [
            f'<details markdown="1">\n<summary>Tests against <code>{args.baseline}</code></summary>',
            f"Against `{args.baseline}`, users resampled in pairs, seeds averaged:",
            markdown(significance_table(tests, str(args.baseline))),
            "</details>",
        ]
    return "\n\n".join(lines)


def _seeds(record: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Method -> metric -> its value for each seed, of the metrics that are shown."""
    shown = _shown(record)
    return {m: {n: row[n]["seeds"] for n in shown if n in row} for m, row in record["methods"].items()}


def _shown(record: Mapping[str, Any]) -> list[str]:
    found = in_order(name for row in record["methods"].values() for name in row)
    ranking = [name for name in found if name.startswith(("recall@", "ndcg@")) and name != "recall@1"]
    return [*ranking, *(name for name in SHOWN if name in found)]


def _hours(args: ReproduceArguments) -> str:
    lines = (Path(args.runs_dir or args.output_dir) / TIMES).read_text().splitlines()
    hours = sum(json.loads(line)["seconds"] for line in lines) / 3600
    return f"All stages together took {hours:.1f} hours, {args.jobs} side by side."
