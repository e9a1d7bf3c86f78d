"""Every method on MovieLens-100K over several seeds, beside collaborative models; or one change to a recipe at a time.

    python benchmarks/ml_100k_seeds.py --output_dir runs/seeds
    python benchmarks/ml_100k_seeds.py --output_dir runs/seeds --ablations

Every stage is a command of the recipes, with its seed; a finished stage is kept, so an interrupted program goes on.
--jobs runs go on side by side, each with as many threads as OMP_NUM_THREADS says.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

METHODS = ("sft", "sft_continued", "gflownet")
REFERENCES = ("mixture", "sasrec", "als", "item_knn", "popularity")
SHOWN = ("recall@1", "recall@5", "recall@10", "recall@50", "ndcg@10", "mrr", "coverage@10", "gini@10")
MATCH = ("tv", "kl", "reward_correlation")
REWARDS = {"behaviour": 1.0, "collaborative": 1.0, "similarity": 0.1}


def without(name: str) -> dict[str, float]:
    return {other: weight for other, weight in REWARDS.items() if other != name}


ABLATIONS: dict[str, dict[str, object]] = {
    "no collaborative model": {"samplers": {"target": 1, "random": 4}, "rewards": without("collaborative")},
    "random for curriculum": {"samplers": {"target": 1, "random": 4}},
    "N = 1": {"samplers": {"target": 1}},
    "N = 3": {"samplers": {"target": 1, "curriculum": 2}},
    "N = 9": {"samplers": {"target": 1, "curriculum": 8}},
    "lambda = 0.01": {"flow_weight": 0.01},
    "lambda = 1": {"flow_weight": 1.0},
    "lambda = 10": {"flow_weight": 10.0},
    "no r_a": {"rewards": without("behaviour")},
    "no r_y": {"rewards": without("collaborative")},
    "no r_sim": {"rewards": without("similarity")},
    "flow_kl": {"objective": "flow_kl"},
}
"""Changes to recipes/ml-100k/gflownet.yaml, whose N is 5 and whose lambda is 0.1."""


def recipe(program: str, *settings: object) -> None:
    command = [sys.executable, f"recipes/{program}.py", *map(str, settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def train(method: str, run: Path, changes: dict[str, object]) -> None:
    """Train and evaluate a run of one of METHODS beside the other runs of its seed, unless that is done."""
    if (run / "model.safetensors").is_file() and (not changes or (run / "ranked_test.npz").is_file()):
        return
    folder, seed = run.parents[1], run.parent.name.removeprefix("seed_")
    settings = ["--data", folder / "data", "--output_dir", run, "--seed", seed, "--disable_tqdm", "true"]
    if method != "sft":
        settings += ["--model", run.with_name("sft")]
    if method == "gflownet":
        settings += ["--recommender", folder / "collaborative/mixture"]
    for name, value in changes.items():
        settings += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    recipe("train", "--config", f"recipes/ml-100k/{method}.yaml", *settings)
    if changes:
        evaluate(run)


def evaluate(run: Path, *settings: object) -> None:
    """Against the reward of the seed's GFlowNet run, whatever a run's own is."""
    source = run.with_name("gflownet")
    recipe("evaluate", "--run", run, "--data", run.parents[1] / "data", "--reward_of", source, *settings)


def one_seed(folder: Path) -> None:
    """The methods with one seed, in `folder`."""
    for method in METHODS:
        train(method, folder / method, {})
    for method in METHODS:
        if not (folder / method / "ranked_test.npz").is_file():
            evaluate(folder / method, *(("--exact_users", -1) if method == "sft" else ()))
    for method in ("sft", "gflownet"):
        if not (folder / f"{method}_guided").is_dir():
            evaluate(folder / method, "--guide", folder.parent / "collaborative/mixture")


def ablation(task: tuple[str, Path]) -> None:
    name, folder = task
    train("gflownet", folder / name.replace(" ", "_"), ABLATIONS[name])


def results(folder: Path, seeds: list[int], rows: dict[str, Path]) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Each row's metrics over the seeds; rows: name -> folder inside a seed's folder."""
    for name, path in rows.items():
        tables = [json.loads((folder / f"seed_{seed}" / path / "metrics.json").read_text()) for seed in seeds]
        found = [table["test"] | table.get("match", {}) for table in tables]
        yield name, {metric: [f[metric] for f in found] for metric in SHOWN + MATCH if metric in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    data, teachers = args.output_dir / "data", args.output_dir / "collaborative"
    if not data.is_dir():
        recipe("prepare", "--config", "recipes/ml-100k/data.yaml", "--output_dir", data)
    recipe("recommenders", "--config", "recipes/ml-100k/collaborative.yaml", "--data", data, "--output_dir", teachers,
           "--only", *reversed(REFERENCES))  # fmt: skip
    folders = [args.output_dir / f"seed_{seed}" for seed in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(tqdm(pool.map(one_seed, folders), total=len(folders), unit="seed"))
        tasks = [(name, folder) for name in ABLATIONS for folder in folders] if args.ablations else []
        list(tqdm(pool.map(ablation, tasks), total=len(tasks), unit="run"))

    rows = {name: Path(name) for name in (*METHODS, "sft_guided", "gflownet_guided")}
    rows |= {name: Path("..") / "collaborative" / name for name in REFERENCES}
    if args.ablations:
        rows |= {name: Path(name.replace(" ", "_")) for name in ABLATIONS}
    table = dict(results(args.output_dir, args.seeds, rows))
    print("\n| test | " + " | ".join(SHOWN + MATCH) + " |\n|" + " --- |" * (len(SHOWN + MATCH) + 1))
    for row, values in table.items():
        cells = [f"{np.mean(v):.4f}" + (f" ± {np.std(v, ddof=1):.4f}" if np.ptp(v) else "") for v in values.values()]
        print(f"| {row} | " + " | ".join(cells + ["–"] * (len(SHOWN + MATCH) - len(cells))) + " |")
    exact = [json.loads((f / "sft" / "metrics.json").read_text())["beam_equals_exact_top10"] for f in folders]
    print(json.dumps({"seeds": args.seeds, "beam_equals_exact_top10": exact, "test": table}))


if __name__ == "__main__":
    main()
