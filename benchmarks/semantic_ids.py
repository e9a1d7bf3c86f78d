"""Semantic IDs of one data set from several vectors and quantisers: how many are distinct, what they leave over, and
how well a short SFT on them recommends.

python benchmarks/semantic_ids.py --source data/amazon-beauty --vectors data/amazon-beauty/Beauty.minilm384.f16.npy

What is finished is kept in `output`. --epochs 0 makes the IDs and trains nothing.
"""

import json
import subprocess
import sys
from pathlib import Path

from common import arguments

CODES = ["--codebook_sizes", "256", "256", "256"]
MEASURED = ("recall@10", "recall@50", "ndcg@10", "coverage@10")


def main() -> None:
    args = arguments(__doc__, source="data/amazon-beauty", vectors="items.npy", output="runs/semantic_ids", epochs=6)
    source, text = Path(args.source), args.vectors
    kinds = {
        "LETTER, as published": ["--index", str(source / "Beauty.index.letter.json"), "--on_collision", "keep"],
        "text": ["--vectors", text, *CODES],
        "text, RQ-VAE": ["--vectors", text, "--quantiser", "rq_vae", *CODES],
        "co-occurrence": ["--vectors", "cooccurrence", *CODES],
        "ALS": ["--vectors", "als", *CODES],
        "SASRec": ["--vectors", "sasrec", *CODES],
        "text + SASRec": ["--vectors", text, "sasrec", *CODES],
        "text + co-occurrence": ["--vectors", text, "cooccurrence", *CODES],
    }
    rows = [["IDs from", "distinct IDs", "items that collide", "residual", *(MEASURED if args.epochs else ())]]
    for name, flags in kinds.items():
        folder = Path(args.output) / name.lower().replace(",", "").replace(" ", "_")
        data, run = folder / "data", folder / "sft"
        if not data.exists():
            log = ["--log", str(source / "Beauty.inter.json"), "--output_dir", str(data)]
            command("prepare", *log, *flags)
        made = json.loads((data / "metrics.json").read_text())
        residual = f"{made['residual']:.3f}" if "residual" in made else "–"
        row = [
            name,
            f"{made.get('distinct_codes', made['semantic_ids']):,}",
            str(made.get("items_that_collided", "–")),
            residual,
        ]
        if args.epochs:
            if not (run / "ranked_test.npz").exists():
                train(data, run, args.epochs)
            test = json.loads((run / "metrics.json").read_text())["test"]
            row += [f"{test[metric]:.4f}" for metric in MEASURED]
        rows.append(row)
        print(" | ".join(row), flush=True)
    rows.insert(1, ["---"] * len(rows[0]))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


def train(data: Path, run: Path, epochs: int) -> None:
    settings = ["--data", str(data), "--output_dir", str(run), "--num_train_epochs", str(epochs)]
    command("train", "--config", "recipes/beauty/sft-cpu.yaml", *settings)
    how = ["--beam_width", "50", "--exclude_history", "false"]
    command("evaluate", "--run", str(run), "--data", str(data), *how)


def command(program: str, *argv: str) -> None:
    done = subprocess.run([sys.executable, f"recipes/{program}.py", *argv], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


if __name__ == "__main__":
    main()
