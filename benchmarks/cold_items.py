"""Items that come later: part of a data set's items is left out of training and added afterwards by their vectors.

python benchmarks/cold_items.py --source data/amazon-beauty --vectors items.npz

Users whose held-out item is new stand beside the others, in the validation split, on which settings are to be chosen,
or in the test split. Histories are left out of the rankings. What is finished is kept in `output`. Prints a table and,
in the last line, the same as JSON.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
from common import arguments
from datasets import Dataset

from catalog import Catalog
from evaluation.markdown import markdown_rows
from experiments.evaluate import rank_recommender, representatives
from interactions import leave_one_out, load_prepared, read_log, vector_ids
from recommenders import GenerativeRecommender, Guide, TextKNN, fit_recommender

TOP = 10


def main() -> None:
    args = arguments(
        __doc__,
        source="data/amazon-beauty",
        vectors="items.npz",
        output="runs/cold_items",
        new=400,
        others=3000,
        epochs=5,
        weights="1 2 3 4",
        split="test",
    )
    output = Path(args.output)
    leave_out(args, output)
    data, grown, run = output / "data", output / "grown", output / "sft"
    if not data.exists():
        files = ["--log", str(output / "known.inter.json"), "--index", str(output / "known.index.json")]
        how = ["--vectors", args.vectors, "--on_collision", "keep", "--min_interactions", "3"]
        command("prepare", *files, *how, "--output_dir", str(data))
    if not any(run.glob("model*.safetensors")):
        how = ["--num_train_epochs", str(args.epochs), "--resume_from_checkpoint", "true"]
        command("train", "--config", "recipes/beauty/sft-cpu.yaml", "--data", str(data), "--output_dir", str(run), *how)
    if not grown.exists():
        command("extend", "--data", str(data), "--vectors", str(output / "new.npz"), "--output_dir", str(grown))
    catalog, splits = load_prepared(grown)
    knn = fit_recommender("text_knn", {"vectors": args.vectors}, splits, catalog, output / "text_knn")
    assert isinstance(knn, TextKNN)
    rows, cold = held_out(args, catalog)
    print(f"{int(cold.sum())} users with a new {args.split} item, {int((~cold).sum())} others", flush=True)
    found = {"text_knn": recall(rank_recommender(knn, rows, True, TOP), rows, cold, catalog)}
    for weight in (None, *map(float, args.weights.split())):
        name = "policy" if weight is None else f"policy guided by text_knn, weight {weight:g}"
        found[name] = recall(ranked(run, catalog, knn, rows, weight), rows, cold, catalog)
        print(name, found[name], flush=True)
    print(table(found))
    print(json.dumps(found))


def leave_out(args: Namespace, output: Path) -> None:
    """Draw the items that come later; write the log and the index of the others, and the vectors of these."""
    log, index = (json.loads((Path(args.source) / f"Beauty.{n}.json").read_text()) for n in ("inter", "index.letter"))
    new = np.random.default_rng(0).choice(sorted(index, key=int), args.new, replace=False).tolist()
    left = set(new)
    output.mkdir(parents=True, exist_ok=True)
    known = {user: [item for item in items if str(item) not in left] for user, items in log.items()}
    (output / "known.inter.json").write_text(json.dumps(known))
    (output / "known.index.json").write_text(json.dumps({i: codes for i, codes in index.items() if i not in left}))
    row = {item: number for number, item in enumerate(vector_ids(args.vectors))}
    vectors = np.load(args.vectors)["vectors"][[row[item] for item in new]]
    np.savez(output / "new.npz", ids=np.array(new), vectors=vectors)


def held_out(args: Namespace, catalog: Catalog) -> tuple[Dataset, np.ndarray]:
    """Rows of the split, from the whole log: all users whose item is new and some others; which are new, [users]."""
    log = read_log(Path(args.source) / "Beauty.inter.json")
    rows = getattr(leave_one_out(log, catalog.item_ids, max_history=20), args.split)
    cold = np.array(rows["target"]) >= catalog.grown_from[-1].items
    some = np.random.default_rng(0).permutation(np.flatnonzero(~cold))[: args.others]
    chosen = np.concatenate([np.flatnonzero(cold), some])
    return rows.select(chosen), cold[chosen]


def ranked(run: Path, catalog: Catalog, knn: TextKNN, rows: Dataset, weight: float | None) -> np.ndarray:
    """The policy's best items [users, 50] in the grown catalog, guided or not as `evaluate.py` does it."""
    trained = GenerativeRecommender.from_pretrained(run, catalog=catalog)
    guide = None if weight is None else Guide(knn, weight, floor=1e-9)
    return trained.rank(rows["history"][:], 50, exclude_history=True, guide=guide)


def recall(items: np.ndarray, rows: Dataset, cold: np.ndarray, catalog: Catalog) -> dict[str, float]:
    """Recall@10 of both groups of users, and the share of new items among the ten that are shown."""
    target = representatives(np.array(rows["target"]), catalog)
    hit = (representatives(items[:, :TOP], catalog) == target[:, None]).any(1)
    shown = float((items[:, :TOP] >= catalog.grown_from[-1].items).mean())
    return {"new": float(hit[cold].mean()), "others": float(hit[~cold].mean()), "shown": shown}


def table(found: dict[str, dict[str, float]]) -> str:
    head = ["", "Recall@10, new item", "Recall@10, others", "new items among those shown"]
    rows = [[name, *(f"{row[key]:.4f}" for key in ("new", "others", "shown"))] for name, row in found.items()]
    return markdown_rows(head, rows)


def command(program: str, *argv: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"recipes.{program}", *argv], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
