"""SFT, continued SFT and GFlowNet on MovieLens-100K over several seeds, beside item-kNN and popularity.

    python benchmarks/ml_100k_seeds.py --output_dir runs/seeds

Every stage is a command of the recipes, with its seed; a finished stage is kept, so an interrupted program goes on.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

METHODS = ("sft", "sft_continued", "gflownet")
SHOWN = ("recall@1", "recall@5", "recall@10", "recall@50", "ndcg@10", "mrr", "coverage@10", "gini@10")


def recipe(program: str, *settings: object) -> None:
    subprocess.run([sys.executable, f"recipes/{program}.py", *map(str, settings)], check=True)


def train(method: str, seed: int, folder: Path, data: Path) -> Path:
    """The folder of a trained and evaluated run."""
    run = folder / f"seed_{seed}" / method
    if (run / "ranked_test.npz").is_file():
        return run
    start = () if method == "sft" else ("--model", run.with_name("sft"))
    common = ("--data", data, "--output_dir", run, "--seed", seed, "--disable_tqdm", "true", *start)
    started = time.perf_counter()
    recipe("train", "--config", f"recipes/ml-100k/{method}.yaml", *common)
    minutes = (time.perf_counter() - started) / 60
    recipe("evaluate", "--run", run, "--data", data, *(("--exact_users", -1) if method == "sft" else ()))
    print(f"{run}: trained in {minutes:.1f} minutes")
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    args = parser.parse_args()
    data = args.output_dir / "data"
    if not data.is_dir():
        recipe("prepare", "--config", "recipes/ml-100k/data.yaml", "--output_dir", data)
    for seed in args.seeds:
        runs = [train(method, seed, args.output_dir, data) for method in METHODS]
        recipe("compare", "--config", "recipes/ml-100k/compare.yaml", "--data", data, "--output_dir",
               args.output_dir / f"seed_{seed}", "--runs", *runs)  # fmt: skip
    tables = [json.loads((args.output_dir / f"seed_{seed}" / "metrics.json").read_text()) for seed in args.seeds]
    summary = {
        row: {name: [table[row][name] for table in tables] for name in SHOWN}
        for row in (*METHODS, "item_knn", "popularity")
    }
    print("\n| test | " + " | ".join(SHOWN) + " |\n|" + " --- |" * (len(SHOWN) + 1))
    for row, values in summary.items():
        cells = [f"{np.mean(v):.4f}" + (f" ± {np.std(v, ddof=1):.4f}" if np.ptp(v) else "") for v in values.values()]
        print(f"| {row} | " + " | ".join(cells) + " |")
    exact = [
        json.loads((args.output_dir / f"seed_{seed}" / "sft" / "metrics.json").read_text())["beam_equals_exact_top10"]
        for seed in args.seeds
    ]
    print(json.dumps({"seeds": args.seeds, "beam_equals_exact_top10": exact, "test": summary}))


if __name__ == "__main__":
    main()
