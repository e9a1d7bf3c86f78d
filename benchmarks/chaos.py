"""Kills a short training again and again, goes on each time, and compares the weights with those of a run left alone.

python benchmarks/chaos.py --kills 50
python benchmarks/chaos.py --kills 20 --processes 2
python benchmarks/chaos.py --kills 20 --what folders

One process imports everything once and forks those that train, so that a kill costs seconds: each of them gets SIGKILL
at a random moment, every third one while a checkpoint and every third while the final weights are being written. The
run is a GFlowNet of 16 steps with draws of the policy, a replay buffer and a checkpoint after every step; two processes
share it under ZeRO-2. `--what folders` kills the programs that write the other folders, see chaos_folders.py. The last
line is JSON: how many kills there were, after how many the next start went on from the newest whole checkpoint, or
began where there was none, and how many were in runs that ended with the weights of the one that nobody killed, bit for
bit.
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
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback, TrainerState

from catalog import Catalog, word_tokenizer
from catalog.files import MARKER, broken, read_json, write_json
from trainer import GFlowNetConfig, GFlowNetTrainer
from trainer.runtime.checkpoint_files import newest

STEPS = 16
ITEMS = 48
ZERO_2 = Path(__file__).parents[1] / "recipes" / "accelerate" / "cpu-zero2.yaml"
WRITING = {"moment": (), "checkpoint": (".unfinished",), "final": (".final*", ".*.tmp")}
"""When a run is killed -> what lies in its folder while that is being written."""
BEGAN = "began"
"""Into this file beside the run each start writes the step that it goes on from."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="How many kills in all.")
    parser.add_argument("--processes", type=int, default=1, help="How many processes train, under ZeRO-2 if several.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    parser.add_argument("--what", choices=("run", "folders", "all"), default="run", help="What is killed.")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # or a fork would print it once more
    result: Counter[str] = Counter(kills=0, resumed=0, bitwise_equal=0)
    with tempfile.TemporaryDirectory() as folder:
        if args.what in ("run", "all"):
            result += kill_runs(Path(folder), args.kills, args.processes, random.Random(args.seed))
        if args.what in ("folders", "all"):
            from chaos_folders import kill_folders

            result += kill_folders(Path(folder), args.kills, random.Random(args.seed))
    print(json.dumps(result))


def kill_runs(folder: Path, count: int, processes: int, draw: random.Random) -> Counter[str]:
    """Kill runs `count` times in all, and count what came of it."""
    started = time.monotonic()
    wanted = folder / "alone" / "run"
    wanted.parent.mkdir()
    status = wait(launch(wanted, processes))
    seconds = time.monotonic() - started
    if status:
        raise SystemExit("error: The run that nobody kills has failed, see above.")
    print(f"alone: {seconds:.1f} s for {STEPS} steps")
    result: Counter[str] = Counter()
    while result["kills"] < count:
        moments = [name for name in WRITING for _ in range(2)][: count - result["kills"]]  # the final save comes last
        run = folder / f"run_{result['kills']}" / "run"
        run.parent.mkdir()
        of_run, status = kill_run(run, processes, draw, seconds, moments)
        equal = status == 0 and same_weights(run, wanted)
        result += of_run + Counter(bitwise_equal=of_run["kills"] * equal)
        print(f"{result['kills']}/{count}: status {status}, {'equal' if equal else 'OTHER WEIGHTS'}")
        shutil.rmtree(run.parent)
    return result


def kill_run(
    run: Path, processes: int, draw: random.Random, seconds: float, moments: list[str]
) -> tuple[Counter[str], int]:
    """Kill one run at these moments and let it end: what was counted, and how it ended."""
    result: Counter[str] = Counter()
    unseen = 0  # kills after which no start has come as far as its training
    for moment in [*moments, None]:
        began, expected = run.parent / BEGAN, steps_done(run)
        began.unlink(missing_ok=True)
        children = launch(run, processes)
        if moment:
            result["while_writing"] += wait_and_kill(children, run, draw, seconds, moment)
        status = wait(children)
        if began.is_file():
            result["resumed"] += unseen * (read_json(began, "The step") == expected)
            unseen = 0
        if status != -signal.SIGKILL:
            break
        result["kills"] += 1
        unseen += 1
    return result, status


def steps_done(run: Path) -> int:
    """Of the newest whole checkpoint, 0 without one."""
    return int(found.name.split("-")[1]) if (found := newest(run)) else 0


def wait_and_kill(children: list[int], run: Path, draw: random.Random, seconds: float, moment: str) -> bool:
    """Kill the processes at a random moment, or at once where they have ended; whether they were writing then.

    Of several processes one is killed first.
    """
    time.sleep(draw.uniform(0.02, 0.5) * seconds)
    until = time.monotonic() + 2 * seconds
    while not is_writing(run, moment) and time.monotonic() < until and not any(map(has_ended, children)):
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.01) if WRITING[moment] else 0)
    found = is_writing(run, "checkpoint") or is_writing(run, "final")
    draw.shuffle(children)
    for child in children:
        os.kill(child, signal.SIGKILL)
        time.sleep(draw.choice([0, 0.05]))
    return found


def is_writing(run: Path, moment: str) -> bool:
    patterns = WRITING[moment]
    return not patterns or any(True for pattern in patterns for _ in run.glob(pattern))


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


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
    """0 where all have ended well, else how the first has ended that has not."""
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
    trainer.add_callback(Began())
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    trainer.end_training()


class Began(TrainerCallback):
    """Tells which step a start goes on from."""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_json(
                Path(args.output_dir).parent / BEGAN, state.global_step
            )  # whole or absent, as the kill may be now


def make_rows() -> Dataset:
    rng = np.random.default_rng(3)
    histories = [rng.integers(0, ITEMS, rng.integers(2, 10)).tolist() for _ in range(32)]
    return Dataset.from_list([{"user": str(i), "history": h, "target": i} for i, h in enumerate(histories)])


def same_weights(run: Path, wanted: Path) -> bool:
    """Whether two runs ended with the same policy and flow heads, bit for bit."""
    names = [name for name in read_json(wanted / MARKER, "The marker")["files"] if name.endswith(".safetensors")]
    if broken(run) or not names:
        return False
    pairs = [(load_file(run / name), load_file(wanted / name)) for name in names]
    return all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in pairs)


if __name__ == "__main__":
    main()
