"""How much of a step's drawing is hidden behind its training when a server draws one step ahead.

python benchmarks/staleness.py

Trainer and server have one core each. The step with `rollout_staleness: 0` takes the drawing and the training one after
the other, with 1 side by side; what is saved is compared with the shorter of the two.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, make_catalog, make_policy
from datasets import Dataset
from transformers import TrainerCallback

from catalog import Catalog, word_tokenizer
from serving.listening import KEY
from trainer import GFlowNetConfig, GFlowNetTrainer

ROOT = Path(__file__).parent.parent
PORT = 8765


class Clock(TrainerCallback):
    """Seconds of every step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.at.append(time.perf_counter())


def serve(folder: Path) -> subprocess.Popen:
    """A server on the second core, ready to draw."""
    command = [sys.executable, "recipes/rollout_server.py", "--model", folder / "model", "--data", folder / "data"]
    server = subprocess.Popen(
        [str(part) for part in [*command, "--port", PORT, "--max_history", 16]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {1}),
    )
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("serving"):
            return server
    raise RuntimeError("The server did not start: run the command by hand to see why.")


def seconds(catalog: Catalog, args: Any, folder: Path, staleness: int) -> tuple[float, float]:
    """Median seconds of a step, and of the drawing in it."""
    policy, _ = make_policy(catalog, args.hidden, args.layers, 16, heads=4, widening=2)
    rng = np.random.default_rng(0)
    rows = [
        {"history": rng.integers(0, args.items, 16).tolist(), "target": int(rng.integers(args.items))}
        for _ in range(args.prompts * (args.steps + 2))
    ]
    clock, drawing = Clock(), []
    trainer = GFlowNetTrainer(
        policy.model,
        GFlowNetConfig(
            output_dir=str(folder / str(staleness)),
            use_cpu=True,
            max_history=16,
            per_device_train_batch_size=args.prompts,
            max_steps=args.steps,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            match_rows=0,
            samplers={"target": 1, "policy": args.samples},
            rewards={"hit": 1.0},
            use_vllm=True,
            vllm_mode="server",
            vllm_server_base_url=[f"http://127.0.0.1:{PORT}"],
            rollout_staleness=staleness,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=word_tokenizer(catalog.trie.sizes),
        catalog=catalog,
        callbacks=[clock],
    )
    sample = trainer.rollouts.engine.sample

    def timed(*given: Any) -> Any:
        started = time.perf_counter()
        drawn = sample(*given)
        drawing.append(time.perf_counter() - started)
        return drawn

    trainer.rollouts.engine.sample = timed
    trainer.train()
    return float(np.median(np.diff(clock.at[2:]))), float(np.median(drawing[2:]))


def main() -> None:
    args = arguments(__doc__, prompts=64, samples=16, hidden=128, layers=4, items=12_000, steps=12)
    os.sched_setaffinity(0, {0})
    os.environ[KEY] = secrets.token_hex(16)
    catalog = make_catalog(args.items, 4, 256)
    policy, _ = make_policy(catalog, args.hidden, args.layers, 16, heads=4, widening=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy.model.save_pretrained(folder / "model")
        word_tokenizer(catalog.trie.sizes).save_pretrained(folder / "model")
        catalog.save(folder / "data")
        server = serve(folder)
        try:
            (apart, drawing), (ahead, _) = (seconds(catalog, args, folder, n) for n in (0, 1))
        finally:
            server.kill()
            server.wait()
    training = apart - drawing
    hidden = (apart - ahead) / min(training, drawing)
    print("| | s |\n| --- | --- |")
    for what, value in (
        ("drawing", drawing),
        ("training, rewards and weights", training),
        ("a step, rollout_staleness 0", apart),
        ("a step, rollout_staleness 1", ahead),
    ):
        print(f"| {what} | {value:.3f} |")
    print(json.dumps({"hidden_share": round(hidden, 2), "speedup": round(apart / ahead, 2)}))


if __name__ == "__main__":
    main()
