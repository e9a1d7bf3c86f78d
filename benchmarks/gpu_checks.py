"""The checks of benchmarks/gpu.py, in a process of their own: gpu_checks.py FOLDER NAME... [--dry_run]."""

import argparse
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import gpu_step
import gpu_transfer
import numpy as np
import torch
from common import make_catalog, settle
from gpu_problem import DRY, ON_GPU, Row, Sizes, at_least, at_most, compare, gap, move, on_gpu, problem, start

from samplers.rollouts.skeleton import cached_skeleton
from samplers.rollouts.vllm_engine import VLLMEngine
from samplers.rollouts.weights import PolicySource
from trainer.reporting.run_folder import environment


def float32(sizes: Sizes) -> Iterator[Row]:
    """Engine against trainer, both in float32."""
    yield from agreement(sizes, "float32")


def bfloat16(sizes: Sizes) -> Iterator[Row]:
    """Engine in bfloat16 against trainer under autocast."""
    yield from agreement(sizes, "bfloat16")


def tf32(sizes: Sizes) -> Iterator[Row]:
    """What the engine in float32 would give with Triton's own default, TF32."""
    if not on_gpu():
        yield Row("TF32", "needs a GPU")
        return
    os.environ["TRITON_F32_DEFAULT"] = "tf32"  # which the engine leaves as it is
    with tempfile.TemporaryDirectory() as folder:
        given = problem(sizes)
        engine = start(given, folder, "float32")
        engine.load(PolicySource(given.model), 0)
        yield Row("with TF32: largest difference of a step's log P_F", compare(given, engine).largest)


def agreement(sizes: Sizes, dtype: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        given = problem(sizes)
        engine = start(given, folder, dtype)
        engine.load(PolicySource(given.model, dtype=engine.dtype), 0)
        yield from gap("engine and trainer", compare(given, engine), engine.dtype)
        runner = type(engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner)  # type: ignore[attr-defined]
        yield Row("model runner", f"{runner.__module__}.{runner.__name__}")


def free_gib() -> float:
    torch.cuda.empty_cache()  # what the trainer keeps of its own
    return torch.cuda.mem_get_info()[0] / 2**30


def sleep(sizes: Sizes) -> Iterator[Row]:
    """Three syncs of a colocated engine, which sleeps in between where there is a GPU."""
    dtype = "bfloat16" if on_gpu() else "float32"
    with tempfile.TemporaryDirectory() as folder:
        given = problem(sizes)
        engine = start(given, folder, dtype, sleep=on_gpu())
        awake, asleep = [], []
        for version in range(1, 4):
            move(given.model, version)
            started = time.perf_counter()
            engine.load(PolicySource(given.model, dtype=engine.dtype), version)
            settle()
            yield Row(f"sync {version}", time.perf_counter() - started, "s")
            yield from gap(f"sync {version}", compare(given, engine), engine.dtype)
            if on_gpu():
                awake.append(free_gib())
                engine.sleep()
                asleep.append(free_gib())
        yield Row("version", str(engine.version), bound="3", ok=engine.version == 3)
        if not on_gpu():
            yield Row("sleep", "needs a GPU")
            return
        weights = given.model.num_parameters() * engine.dtype.itemsize / 2**30
        yield at_least("memory that sleep gives back", min(np.subtract(asleep, awake)), weights, "GiB")
        yield at_most("memory that two more syncs took", asleep[0] - asleep[2], 0.1, "GiB")


def start_seconds(sizes: Sizes) -> tuple[str, float]:
    """Start an engine as a run does: the folder that it starts from, and how long that took."""
    given = problem(sizes)
    folder, catalog = cached_skeleton(given.model, given.tokenizer, given.catalog)
    started = time.perf_counter()
    VLLMEngine(folder, catalog, longest=given.longest, dtype="bfloat16" if on_gpu() else "float32", weights=False)
    return str(folder), time.perf_counter() - started


def compile_cache(sizes: Sizes) -> Iterator[Row]:
    """Two starts, of two runs with one architecture and catalog; vLLM compiles on a GPU only."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"VLLM_CACHE_ROOT": f"{cache}/vllm", "GFLOWGR_CACHE": f"{cache}/gflowgr"}
        found: list[tuple[str, float]] = []
        for starts in (1, 1) if on_gpu() else (2,):  # where nothing is compiled, one process saves the imports
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                found += [alone.submit(start_seconds, sizes).result() for _ in range(starts)]
    (one, first), (other, second) = found
    yield Row("first start of an engine", first, "s")
    yield Row("second start of an engine", second, "s")
    yield Row("both start from one folder", "yes" if one == other else "no", bound="yes", ok=one == other)
    if on_gpu():
        yield at_most("second start, of the first", second / first, 0.8)


def server(sizes: Sizes) -> Iterator[Row]:
    """Four clients at one rollout server, at once and one after the other."""
    import rollout_clients

    taken, same = rollout_clients.measure(argparse.Namespace(**rollout_clients.SIZES | sizes.clients))
    alone, together = (seconds[:, 0] for seconds in taken.values())
    yield Row("clients one after the other", float(np.median(alone)), "s")
    yield Row("clients at once", float(np.median(together)), "s")
    yield at_least("at once, times faster", float(np.median(alone / together)), 1.0)
    yield at_least("share of the draws that are the same", same, 0.99)


def grpo(sizes: Sizes) -> Iterator[Row]:
    """A GRPO step of ours and of TRL's."""
    import grpo_step

    ours, theirs = map(np.array, grpo_step.measure(argparse.Namespace(**grpo_step.SIZES | sizes.grpo)))
    yield Row("GRPO step of ours", float(np.median(ours)), "s")
    yield Row("GRPO step of TRL", float(np.median(theirs)), "s")
    yield at_least("ours, times faster", float(np.median(theirs / ours)), 1.0)


def rollouts(sizes: Sizes) -> Iterator[Row]:
    """Rollouts by the colocated engine and by transformers' generate."""
    import rollouts as benchmark

    args = argparse.Namespace(**benchmark.SIZES | sizes.rollouts)
    found = benchmark.compare(make_catalog(args.items, args.levels, 256), sizes.history, args)
    yield Row("draws that are items", found["valid_share"], bound="1", ok=found["valid_share"] == 1)
    yield Row("vLLM against generate, times faster", found["wall_speedup"])
    yield Row("what the trie adds to a draw", 100 * found["constraint_overhead"], "%")
    yield Row("handing over the weights", found["sync_ms"], "ms")


def install(_: Sizes) -> Iterator[Row]:
    """What `gflowgr doctor` finds."""
    from experiments.doctor import examine

    for found in examine():
        if found.state in ("ok", "broken") and not found.part.startswith("extra"):
            yield Row(found.part, found.found, ok=found.state == "ok")


CHECKS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    "install": install,
    "float32": float32,
    "tf32": tf32,
    "bfloat16": bfloat16,
    "sleep": sleep,
    "compile": compile_cache,
    "step": gpu_step.step,
    "server": server,
    "transfer": gpu_transfer.transfer,
    "grpo": grpo,
    "rollouts": rollouts,
}
"""In the order in which they are worth knowing; each yields what it found, so that a failure keeps what was before."""


def write(name: str, sizes: Sizes) -> None:
    """A check's rows into a file as they are found; the last says how long it took, or why it failed."""
    started = time.perf_counter()
    with open(sizes.output / f"{name}.jsonl", "w") as file:
        print(json.dumps({"environment": environment()}), file=file, flush=True)
        try:
            for row in CHECKS[name](sizes):
                print(json.dumps(row._asdict()), file=file, flush=True)
            last = Row("whole check", time.perf_counter() - started, "s")
        except Exception as error:
            traceback.print_exc()
            said = " ".join(str(error).split())
            last = Row("failed", f"{type(error).__name__}: {said[:300]}", bound="to its end", ok=False)
        print(json.dumps(last._asdict()), file=file, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", choices=CHECKS)
    parser.add_argument("--dry_run", action="store_true")
    args = parser.parse_args()
    for name in args.names:
        write(name, replace(DRY if args.dry_run else ON_GPU, output=args.folder))


if __name__ == "__main__":
    main()
