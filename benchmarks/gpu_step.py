"""A profiled training step of benchmarks/gpu.py: how fast, what it waits for, and its memory beside the plan's."""

import gc
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from common import alive, device, peak, settle, storage_bytes
from datasets import Dataset
from gpu_problem import LEVELS, Row, Sizes, at_least, on_gpu, problem
from torch.profiler import profile
from transformers import TrainerCallback

from experiments.memory import Job, activations, memory, operations
from trainer import GFlowNetConfig, GFlowNetTrainer

PEAKS = {"H100": 989, "H200": 989, "A100": 312, "B200": 2250}
"""TFLOP/s in bfloat16 without sparsity, from NVIDIA's data sheets, of the SXM cards whose name holds the key."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class Watch(TrainerCallback):
    """Seconds of each step after the second; the last one is profiled, and counts for memory."""

    def __init__(self, steps: int) -> None:
        self.steps, self.seconds, self.before, self.last = steps, [], 0, 0.0
        self.profiler = profile(profile_memory=not on_gpu())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        settle()
        now = time.perf_counter()
        if 2 < state.global_step < self.steps:
            self.seconds.append(now - self.last)
        if state.global_step == self.steps - 1:
            gc.collect()
            self.before = storage_bytes(alive())
            if on_gpu():
                torch.cuda.reset_peak_memory_stats()
            self.profiler.start()
        if state.global_step == self.steps:
            self.profiler.stop()
        self.last = time.perf_counter()

    @property
    def peak_bytes(self) -> float:
        return torch.cuda.max_memory_allocated() if on_gpu() else self.before + peak(self.profiler)


def step(sizes: Sizes) -> Iterator[Row]:
    """A profiled step of a GFlowNet, and its memory beside that of `gflowgr plan`."""
    given, watch = problem(sizes), Watch(sizes.steps)
    rng = np.random.default_rng(3)
    rows = [
        {"history": rng.integers(0, sizes.items, sizes.history).tolist(), "target": int(rng.integers(sizes.items))}
        for _ in range(sizes.prompts * sizes.steps)
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = GFlowNetConfig(
            output_dir=folder,
            max_history=sizes.history,
            per_device_train_batch_size=sizes.prompts,
            max_steps=sizes.steps,
            samplers={"target": 1, "random": sizes.trajectories - 1},
            rewards={"hit": 1.0, "prefix": 1.0},
            bf16=on_gpu(),
            use_cpu=not on_gpu(),
            save_strategy="no",
            disable_tqdm=True,
        )
        GFlowNetTrainer(
            given.model,
            config,
            train_dataset=Dataset.from_list(rows),
            processing_class=given.tokenizer,
            catalog=given.catalog,
            callbacks=[watch],
        ).train()
    yield from figures(sizes, watch)


def figures(sizes: Sizes, watch: Watch) -> Iterator[Row]:
    precision = "bf16" if on_gpu() else "float32"
    shape = (sizes.prompts, sizes.trajectories, sizes.history, LEVELS)
    job = Job(*shape, precision=precision, codes=sizes.width)  # type: ignore[arg-type]
    seconds = float(np.median(watch.seconds))
    yield Row("training step", seconds, "s")
    yield Row("tokens of a step", sizes.prompts * job.row / seconds, "1/s")
    reached = operations(sizes.backbone, job, checkpointing=False)[0] / seconds / 1e12
    yield Row("the step's arithmetic", reached, "TFLOP/s")
    yield Row("of a large matmul", reached / matmul_tflops(sizes.matmul))
    name = torch.cuda.get_device_name() if on_gpu() else ""
    if known := [tflops for card, tflops in PEAKS.items() if card in name]:
        yield at_least("MFU", reached / known[0], 0.2)
    kept = memory("single", sizes.backbone, job)
    planned = kept.states + kept.transient
    planned += sum(activations(sizes.backbone, job, checkpointing=False, autocast=on_gpu()))
    yield Row("peak memory of the step", watch.peak_bytes / 2**30, "GiB")
    ratio = watch.peak_bytes / planned
    yield Row("of what the plan says", ratio, bound="0.8 to 1.2", ok=0.8 <= ratio <= 1.2)
    events = watch.profiler.key_averages()
    asked = sum(event.count for event in events if event.key == "aten::_local_scalar_dense")
    yield Row("numbers of the device that the host asks for in a step", float(asked))
    if on_gpu():
        waited = sum(event.cpu_time_total for event in events if event.key in WAITS) / 1e6
        yield Row("share of the step that the host waits", waited / seconds)
    order = "self_cuda_time_total" if on_gpu() else "self_cpu_time_total"
    (sizes.output / "step.profile.txt").write_text(events.table(sort_by=order, row_limit=40))


def matmul_tflops(rows: int) -> float:
    """What one large product reaches on this device, in the precision of the step."""
    left = torch.randn(rows, rows, device=device(), dtype=torch.bfloat16 if on_gpu() else torch.float32)
    for _ in range(3):
        left @ left
    settle()
    started = time.perf_counter()
    for _ in range(10):
        left @ left
    settle()
    return 10 * 2 * rows**3 / (time.perf_counter() - started) / 1e12
