"""One trial of a recommender: it is fitted, measured on the validation items, and kept nowhere.

It is a program of `tune.py`, which reads the metrics.jsonl that it writes: a record an epoch, and a last one, `final`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from catalog.files import complete
from catalog.settings import Arguments, as_table
from experiments.command_line import parse, program


@dataclass
class FitTrialArguments(Arguments):
    """What a trial of a recommender is told."""

    data: str
    output_dir: str
    kind: str
    metric: str = "ndcg@10"
    exclude_history: bool = True
    settings: dict[str, Any] | str | None = field(default=None)


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, FitTrialArguments)
    from evaluation import mean_metrics
    from experiments.evaluate import rank_recommender, user_metrics
    from interactions import load_prepared
    from recommenders.store import build_recommender, settings_of

    catalog, splits = load_prepared(args.data)
    chosen = settings_of(args.kind, as_table("settings", args.settings))
    records, k = Records(Path(args.output_dir)), int(args.metric.partition("@")[2])
    model = build_recommender(args.kind, chosen, splits, catalog, records.add)
    rows = splits.validation
    ranked = rank_recommender(model, rows, args.exclude_history, max(10, k))
    metrics = mean_metrics(user_metrics(ranked, np.array(rows["target"]), catalog, [k]))
    records.add(len(records.lines) + 1, metrics | {"final": 1.0})


class Records:
    """A metrics.jsonl that begins anew. An epoch's record has the metrics with the history left out."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.lines = folder / "metrics.jsonl", list[str]()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a record."""
        named = {f"eval_{name}" if "@" in name else name: value for name, value in metrics.items()}
        self.lines.append(json.dumps({"step": step, **named}) + "\n")
        with complete(self.path) as temporary:
            temporary.write_text("".join(self.lines))


if __name__ == "__main__":
    main()
