"""Semantic IDs of one data set from several vectors and quantizers: how many are distinct, what they leave over, and
how well a short SFT on them recommends.

python benchmarks/quantizers.py --source data/amazon-beauty --vectors items.npz

What is finished is kept in `output`. --epochs 0 makes the IDs and trains nothing.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import arguments

from evaluation.markdown import markdown_rows

CODES = ["--codebook_sizes", "256", "256", "256"]
MEASURED = ("recall@10", "recall@50", "ndcg@10", "coverage@10")


def main() -> None:
    args = arguments(__doc__, source="data/amazon-beauty", vectors="items.npz", output="runs/semantic_ids", epochs=6)
    source, text = Path(args.source), args.vectors
    kinds = {
        "LETTER, as published": ["--index", str(source / "Beauty.index.letter.json"), "--on_collision", "keep"],
        "text": ["--vectors", text, *CODES],
        "text, RQ-VAE": ["--vectors", text, "--quantizer", "rq_vae", *CODES],
        "co-occurrence": ["--vectors", "cooccurrence", *CODES],
        "ALS": ["--vectors", "als", *CODES],
        "SASRec": ["--vectors", "sasrec", *CODES],
        "text + SASRec": ["--vectors", text, "sasrec", *CODES],
        "text + co-occurrence": ["--vectors", text, "cooccurrence", *CODES],
    }
    head = ["IDs from", "distinct IDs", "items that collide", "residual", *(MEASURED if args.epochs else ())]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # so small a policy is faster with a core to itself
        rows = list(pool.map(lambda kind: row(args, *kind), kinds.items()))
    print(markdown_rows(head, rows))


def row(args: Namespace, name: str, flags: list[str]) -> list[str]:
    """What IDs of one kind are like, and with epochs how well they recommend."""
    folder = Path(args.output) / name.lower().replace(",", "").replace(" ", "_")
    data, run = folder / "data", folder / "sft"
    if not data.exists():
        log = ["--log", str(Path(args.source) / "Beauty.inter.json"), "--output_dir", str(data)]
        command("prepare", *log, *flags)
    made = json.loads((data / "metrics.json").read_text())
    residual = f"{made['residual']:.3f}" if "residual" in made else "–"
    cells = [name, f"{made['distinct_codes']:,}", f"{made['items_that_collided']:,}", residual]
    if args.epochs:
        evaluation = run / "evaluation" / "test" / "metrics.json"
        if not evaluation.exists():
            train(data, run, args.epochs)
        test = json.loads(evaluation.read_text())["metrics"]
        cells += [f"{test[metric]:.4f}" for metric in MEASURED]
    print(" | ".join(cells), flush=True)
    return cells


def train(data: Path, run: Path, epochs: int) -> None:
    settings = ["--data", str(data), "--output_dir", str(run), "--num_train_epochs", str(epochs)]
    settings += ["--resume_from_checkpoint", "true"]
    command("train", "--config", "recipes/beauty/sft-cpu.yaml", *settings)
    how = ["--beam_width", "50", "--exclude_history", "false"]
    command("evaluate", "--run", str(run), "--data", str(data), *how)


def command(program: str, *argv: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = f"recipes/{program}.py"
    done = subprocess.run([sys.executable, program, *argv], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


if __name__ == "__main__":
    main()
