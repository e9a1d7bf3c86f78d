"""A whole run at a million items and a million users: what each command takes, and the memory that it needs.

python benchmarks/million.py OUT
python benchmarks/million.py OUT --items 100000 --users 100000 --only sft gflownet

Makes a log with the vectors of its items, in which users keep to some items that lie near each other, and runs the
programs of the recipes on it, a few steps of training each: the figures are those of the machinery, not of a model.
The last line is JSON: of each stage its CPU seconds and the highest memory that its process held.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from evaluation.markdown import markdown_rows

EVENTS, EVERYWHERE, NEAR, WIDTH = 9, 3, 200, 32
"""Of a user, of these anywhere in the catalog; items that lie together; dimensions of the vectors."""


def make_log(folder: Path, users: int, items: int) -> None:
    """log.parquet with every item at least `EVERYWHERE * users // items` times, and vectors.npz."""
    draw = np.random.default_rng(0)
    place = draw.integers(0, items // NEAR, (users, 1)) * NEAR
    taken = place + (NEAR * draw.random((users, EVENTS), np.float32) ** 2).astype(np.int64)
    everywhere = [draw.permutation(np.arange(users) % items) for _ in range(EVERYWHERE)]
    taken[:, :EVERYWHERE] = np.stack(everywhere, 1)
    time_of = draw.permuted(np.tile(np.arange(EVENTS), (users, 1)), axis=1)
    columns = {
        "user": np.repeat(np.arange(users), EVENTS),
        "item": taken.ravel(),
        "timestamp": time_of.ravel() + 1_600_000_000,
    }
    parquet.write_table(pa.table(columns), folder / "log.parquet")
    center = draw.standard_normal((items // NEAR + 1, WIDTH), np.float32)
    vectors = center[np.arange(items) // NEAR] + 0.5 * draw.standard_normal((items, WIDTH), np.float32)
    np.savez(folder / "vectors.npz", ids=np.arange(items), vectors=vectors)


def stages(folder: Path, args: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each stage, in their order."""
    data, knn = str(folder / "data"), str(folder / "recommenders/item_knn")
    backbone = {"model_type": "qwen3", "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 512}
    backbone |= {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16}
    training = ["--data", data, "--max_steps", str(args.steps), "--per_device_train_batch_size", "16"]
    training += ["--eval_strategy", "steps", "--eval_steps", str(args.steps), "--eval_users", "256"]
    flows = {"hit": 1.0, "collaborative": 1.0, "similarity": 0.1}
    models = {
        "item_knn": {"neighbors": 50},
        "als": {"dimensions": 32, "iterations": 2},
        "sasrec": {"loss": "sampled_softmax", "epochs": 1, "batch_size": 1024, "dimensions": 32, "max_length": 20},
    }
    of_recommenders = ["--data", data, "--output_dir", str(folder / "recommenders"), "--eval_users", str(args.ranked)]
    return {
        "prepare": [
            *("prepare", "--log", str(folder / "log.parquet"), "--vectors", str(folder / "vectors.npz")),
            *("--min_interactions", "3", "--codebook_sizes", "256", "256", "256", "--output_dir", data),
        ],
        **{name: ["recommenders", *of_recommenders, "--models", json.dumps(models), "--only", name] for name in models},
        "sft": [
            "train",
            "--method",
            "sft",
            *training,
            "--backbone",
            json.dumps(backbone),
            "--output_dir",
            f"{folder}/sft",
        ],
        "gflownet": [
            *("train", "--method", "gflownet", *training, "--model", f"{folder}/sft", "--recommender", knn),
            *("--objective", "flow_kl", "--flow_positions", "all", "--keep_flows", "true"),
            *("--rewards", json.dumps(flows), "--samplers", json.dumps({"target": 1, "curriculum": 2})),
            *("--output_dir", f"{folder}/gflownet"),
        ],
        "evaluate": [
            *("evaluate", "--run", f"{folder}/gflownet", "--data", data, "--eval_users", str(args.ranked)),
            *("--beam_width", "50"),
        ],
        "evaluate, guided": [
            *("evaluate", "--run", f"{folder}/gflownet", "--data", data, "--eval_users", str(args.ranked)),
            *("--beam_width", "50", "--guide", knn),
        ],
    }


def run(command: list[str], log: Path) -> dict[str, float]:
    """Run a program to its end: CPU seconds, wall seconds and GiB of its highest resident memory."""
    started = time.perf_counter()
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "recipes", *command], stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed, see {log}:\n{log.read_text()[-2000:]}")
    seconds = time.perf_counter() - started
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(seconds, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the log and all that is made of it; made anew where it exists")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=20, help="of each training")
    parser.add_argument("--ranked", type=int, default=10_000, help="users that are ranked in an evaluation")
    parser.add_argument("--only", nargs="+", help="stages to run again in a folder that has those before them")
    args = parser.parse_args()
    if not args.only:
        shutil.rmtree(args.folder, ignore_errors=True)
        args.folder.mkdir(parents=True)
        make_log(args.folder, args.users, args.items)
    found = {}
    for name, command in stages(args.folder, args).items():
        if not args.only or name in args.only:
            found[name] = run(command, args.folder / f"{name.replace(', ', '_')}.log")
            print(name, found[name], flush=True)
    rows = [[name, *(f"{value:,}" for value in figures.values())] for name, figures in found.items()]
    print(markdown_rows(["stage", "CPU s", "wall s", "peak GiB"], rows))
    print(json.dumps({"items": args.items, "users": args.users, **found}))


if __name__ == "__main__":
    main()
