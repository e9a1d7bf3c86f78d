"""The weights to a rollout server in benchmarks/gpu.py: by HTTP, NCCL and CUDA IPC, without a GPU by gloo."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from typing import Any

import torch
from common import settle
from gpu_problem import LEVELS, Problem, Row, Sizes, at_least, compare, gap, move, on_gpu, problem

from samplers.rollouts.client import ServerEngine, WeightSender
from samplers.rollouts.http_weights import HTTPWeights
from samplers.rollouts.servers import Servers
from samplers.rollouts.vllm_weights import VLLMWeights
from samplers.rollouts.weights import PolicySource

ROOT = Path(__file__).parent.parent
KEY = "a key of more than 16 characters"
Sender = Callable[[Servers], WeightSender]


def transfer(sizes: Sizes) -> Iterator[Row]:
    """Three syncs to a rollout server in a process of its own by each way of the weights."""
    given = problem(sizes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given.model.save_pretrained(folder / "model")
        given.tokenizer.save_pretrained(folder / "model")
        given.catalog.save(folder / "data")
        if not on_gpu():
            yield from ways(given, folder, sizes, "gloo", gpu="")
            return
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
        if len(gpus) > 1:
            yield from ways(given, folder, sizes, "nccl", gpu=gpus[1])
        else:
            yield Row("nccl", "needs two GPUs")
        yield from ways(given, folder, sizes, "ipc", gpu=gpus[0])


def ways(given: Problem, folder: Path, sizes: Sizes, backend: str, gpu: str) -> Iterator[Row]:
    """A server that takes weights by vLLM's transfer and by HTTP, and both in turn. gpu: of the server."""
    if backend == "gloo":
        sys.path.insert(0, str(ROOT))
        from tests.vllm.gloo import join
    else:
        from samplers.rollouts.vllm_groups import JOINS

        join = JOINS[backend]
    with rollout_server(folder, sizes, backend, gpu) as url:
        seconds = {}
        senders: dict[str, Sender] = {"http": HTTPWeights, backend: lambda servers: VLLMWeights(servers, join)}
        for way, sender in senders.items():
            servers = Servers(
                [url],
                key=KEY,
                catalog_fingerprint=given.catalog.fingerprint,
                vocabulary=given.model.config.vocab_size,
                longest=given.longest,
                weight_transfer=way,
                timeout=300,
            )
            engine = ServerEngine(servers, run=way, levels=LEVELS, sender=sender(servers))
            seconds[way] = yield from three_syncs(way, given, engine)
    faster = seconds["http"] / seconds[backend]
    name = f"{backend} against http, times faster"
    yield at_least(name, faster, 1.0) if on_gpu() else Row(name, faster)


def three_syncs(way: str, given: Problem, engine: ServerEngine) -> Iterator[Row]:
    """Returns the seconds of the fastest; the first makes buffers and groups."""
    taken = []
    for version in range(3):
        move(given.model, version)
        settle()
        started = time.perf_counter()
        engine.load(PolicySource(given.model, dtype=engine.dtype), version)
        engine.confirm_weights()
        taken.append(time.perf_counter() - started)
        yield from gap(f"{way}, sync {version + 1}", compare(given, engine), engine.dtype)
    sent = sum(
        meta.dtype.itemsize * torch.Size(meta.shape).numel()
        for meta in PolicySource(given.model, dtype=engine.dtype).metadata()
    )
    yield Row(f"{way}, first sync", taken[0], "s")
    yield Row(f"{way}, later syncs", min(taken[1:]), "s")
    yield Row(f"{way}, of {sent / 1e9:.3g} GB", sent / 1e9 / min(taken[1:]), "GB/s")
    return min(taken[1:])


@contextmanager
def rollout_server(folder: Path, sizes: Sizes, backend: str, gpu: str) -> Iterator[str]:
    """The url of a server of the checkpoint and the data in `folder`; its log goes to the output folder."""
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model, data, settings = str(folder / "model"), str(folder / "data"), json.dumps({"gpu_memory_utilization": 0.3})
    command = ["tests/vllm/gloo.py", str(port), model, data]
    if backend != "gloo":
        command = ["recipes/rollout_server.py", "--port", str(port), "--model", model, "--data", data]
        command += ["--max_history", str(sizes.history), "--weight_transfer", backend, "--engine", settings]
    environment: dict[str, Any] = {"PYTHONPATH": str(ROOT), "GFLOWGR_API_KEY": KEY, "CUDA_VISIBLE_DEVICES": gpu}
    log = sizes.output / f"transfer.{backend}.server.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=os.environ | environment, stdout=file, stderr=file
        )
    try:
        while f"http://127.0.0.1:{port}" not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(f"the server ended: {log.read_text().strip().splitlines()[-1:]}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
