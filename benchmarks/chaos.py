"""Kills a short training again and again, goes on each time, and compares the weights with those of a run left alone.

python benchmarks/chaos.py --kills 50
python benchmarks/chaos.py --kills 20 --processes 2

One process imports everything once and forks those that train, so that a kill costs seconds: each of them gets SIGKILL
at a random moment, every other one while a checkpoint or the final weights are being written. The run is a GFlowNet of
16 steps with draws of the policy, a replay buffer and a checkpoint after every step; two processes share it under
ZeRO-2. The last line is JSON: how many kills there were, after how many the same command went on to the end, and how
many of those left the weights of the run that nobody killed, bit for bit.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from catalog import Catalog, word_tokenizer
from trainer import GFlowNetConfig, GFlowNetTrainer

KILLS_A_RUN = 5
"""After so many kills a run may end; the next one begins anew."""
STEPS = 16
ITEMS = 48
ZERO_2 = Path(__file__).parents[1] / "recipes" / "accelerate" / "cpu-zero2.yaml"
WRITING = (".unfinished", "*.tmp")
"""What lies in the run's folder while something is being written there."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="How many kills in all.")
    parser.add_argument("--processes", type=int, default=1, help="How many processes train, under ZeRO-2 if several.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # or a fork would print it once more
    draw = random.Random(args.seed)
    result = {"kills": 0, "resumed": 0, "bitwise_equal": 0, "while_writing": 0}
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        wanted, status = Path(folder) / "wanted", wait(launch(Path(folder) / "wanted", args.processes))
        seconds = time.monotonic() - started
        if status:
            raise SystemExit("error: The run that nobody kills has failed, see above.")
        print(f"alone: {seconds:.1f} s for {STEPS} steps")
        while result["kills"] < args.kills:
            run = Path(folder) / f"run_{result['kills']}"
            kills = min(KILLS_A_RUN, args.kills - result["kills"])
            hit = [kill_once(run, args.processes, draw, seconds, number % 2 == 1) for number in range(kills)]
            status = wait(launch(run, args.processes))
            equal = status == 0 and same_weights(run, wanted)
            result["kills"] += kills
            result["resumed"] += kills * (status == 0)
            result["bitwise_equal"] += kills * equal
            result["while_writing"] += sum(hit)
            print(f"{result['kills']}/{args.kills}: status {status}, {'equal' if equal else 'OTHER WEIGHTS'}")
            shutil.rmtree(run)
    print(json.dumps(result))


def kill_once(run: Path, processes: int, draw: random.Random, seconds: float, writing: bool) -> bool:
    """Start the run, and kill its processes at a random moment; returns whether something was being written then.

    writing: wait, after that moment, until something is. Of several processes one is killed first.
    """
    children = launch(run, processes)
    time.sleep(draw.uniform(0.1, 0.9) * seconds / (2 if writing else 1))
    if writing:
        until = time.monotonic() + seconds
        while not is_writing(run) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03))
    found = is_writing(run)
    draw.shuffle(children)
    for child in children:
        os.kill(child, signal.SIGKILL)
        time.sleep(draw.choice([0, 0.05]))
    wait(children)
    return found


def is_writing(run: Path) -> bool:
    return any(True for pattern in WRITING for _ in run.glob(pattern))


def launch(run: Path, processes: int) -> list[int]:
    """Fork the processes that train; their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = distributed(processes)
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port} for rank in range(processes)]
    return [_fork(run, told | rank if told else {}) for rank in ranks]


def _fork(run: Path, environment: dict[str, str]) -> int:
    if child := os.fork():
        return child
    status = 1
    try:
        os.environ.update(environment)
        train(run)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(children: list[int]) -> int:
    """0 where all have ended well; the others get a moment once one of them has not."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next((code for code in codes if code), 0)


def distributed(processes: int) -> dict[str, str]:
    """What `accelerate launch` with recipes/accelerate/cpu-zero2.yaml tells each of several processes."""
    if processes == 1:
        return {}
    command = launch_command_parser().parse_args(["--config_file", str(ZERO_2), "--num_processes", str(processes), "-"])
    told, defaults, _ = _validate_launch_command(command)
    told.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    _, environment = prepare_deepspeed_cmd_env(told)
    return {name: value for name, value in environment.items() if name.startswith("ACCELERATE_")} | {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
    }


def train(run: Path) -> None:
    """What is killed: the run goes on from its last checkpoint, or begins."""
    torch.manual_seed(0)
    codes = np.random.default_rng(0).integers(0, [4, 5, 6], (ITEMS, 3))
    catalog = Catalog.from_codes([f"item{i}" for i in range(ITEMS)], codes)
    tokenizer = word_tokenizer(catalog.trie.sizes)
    shape: dict[str, Any] = dict(n_embd=32, n_layer=2, n_head=2, n_positions=128)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), **shape))
    trainer = GFlowNetTrainer(
        model,
        GFlowNetConfig(
            output_dir=str(run),
            global_batch_size=8,
            max_steps=STEPS,
            max_history=6,
            learning_rate=1e-3,
            samplers={"target": 1, "policy": 2, "replay": 1},
            rewards={"hit": 1.0, "similarity": 0.5},
            eval_strategy="no",
            save_strategy="steps",
            save_steps=1,
            save_total_limit=2,
            logging_steps=1,
            disable_tqdm=True,
            use_cpu="WORLD_SIZE" not in os.environ,
        ),
        train_dataset=make_rows(),
        processing_class=tokenizer,
        catalog=catalog,
    )
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    trainer.end_training()


def make_rows() -> Dataset:
    rng = np.random.default_rng(3)
    histories = [rng.integers(0, ITEMS, rng.integers(2, 10)).tolist() for _ in range(32)]
    return Dataset.from_list([{"user": str(i), "history": h, "target": i} for i, h in enumerate(histories)])


def same_weights(run: Path, wanted: Path) -> bool:
    """Whether two runs ended with the same files of weights, bit for bit."""
    names = sorted(path.name for path in wanted.glob("*.safetensors"))
    if not names or names != sorted(path.name for path in run.glob("*.safetensors")):
        return False
    pairs = [(load_file(run / name), load_file(wanted / name)) for name in names]
    return all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in pairs)


if __name__ == "__main__":
    main()
