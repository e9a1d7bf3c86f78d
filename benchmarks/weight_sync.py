"""Weights to a rollout server over HTTP: as parts of bytes, against one safetensors file after another.

python benchmarks/weight_sync.py [--megabytes 1024 --repeats 3]

Two processes on one machine, over loopback, in float32, taken in turns. The server copies what it is given into its own
weights, as an engine's `load_weights` does; vLLM is not there. The last row sends to a server in bfloat16, which is
half the bytes. CPU seconds are of both processes.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import torch
from common import arguments, make_catalog
from fastapi import FastAPI, Request
from safetensors.torch import load, save
from torch import Tensor

from evaluation.markdown import markdown_rows
from samplers.rollouts.client import ServerEngine
from samplers.rollouts.engine import WeightMeta
from samplers.rollouts.http_client import request
from samplers.rollouts.http_weights import HTTPWeights
from samplers.rollouts.server import make_app
from samplers.rollouts.servers import Servers
from samplers.rollouts.weights import buckets
from serving.http_limits import KeyAndSizeLimits, server_config
from serving.listening import bind

KEY = "a key of more than 16 characters"
BUCKET = 256 * 2**20


class Given:
    """Weights like those of a transformer: an eighth of them embeddings, the rest in layers of seven matrices."""

    def __init__(self, megabytes: int, dtype: torch.dtype) -> None:
        rows = megabytes * 2**20 // 4 // 1024
        sizes = [rows // 8, *[rows * 7 // 8 // 112] * 112]
        self.own = {f"weight.{place}": torch.randn(size, 1024) for place, size in enumerate(sizes)}
        self.dtype = dtype

    def metadata(self) -> list[WeightMeta]:
        return [WeightMeta(name, self.dtype, tuple(weight.shape)) for name, weight in self.own.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, weight.to(self.dtype)) for name, weight in self.own.items())


class Copies:
    """Stands for an engine: it takes weights and draws nothing."""

    version = 0

    def __init__(self, given: Given) -> None:
        self.dtype = given.dtype
        self.own = {name: torch.empty(shape, dtype=dtype) for name, dtype, shape in given.metadata()}

    def load(self, weights: Given, version: int) -> None:
        for name, weight in weights:
            self.own[name].copy_(weight)


def old_app(engine: Copies) -> FastAPI:
    app = FastAPI()
    app.add_middleware(KeyAndSizeLimits, key=KEY, largest=lambda path: 2 * BUCKET, refusal="")

    @app.put("/weights")
    async def weights(asked: Request) -> None:
        for name, weight in load(await asked.body()).items():
            engine.own[name].copy_(weight)

    return app


def old_send(port: int, given: Given) -> None:
    for bucket in buckets(given, BUCKET):
        body = save({name: tensor.cpu().contiguous() for name, tensor in bucket.items()})
        headers = {"Authorization": f"Bearer {KEY}", "Connection": "close"}
        answer = request(
            "PUT", f"http://127.0.0.1:{port}/weights", headers, body, timeout=300, largest=10**4, retries=0
        )
        assert answer.status == 200


def serve(pipe: Connection, megabytes: int, dtype: torch.dtype, old: bool) -> None:
    import uvicorn

    engine, catalog = Copies(Given(megabytes, dtype)), make_catalog(100, 3, 8)
    named = {"key": KEY, "catalog": catalog, "vocabulary": 1, "longest": 1}
    app = old_app(engine) if old else make_app(engine, **named)  # type: ignore[arg-type]
    listener = bind("127.0.0.1", 0)
    listener.listen()
    pipe.send((listener.getsockname()[1], catalog.fingerprint))
    uvicorn.Server(server_config(app)).run(sockets=[listener])


def cpu_seconds(process: int) -> float:
    with open(f"/proc/{process}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def side(megabytes: int, dtype: torch.dtype, old: bool = False) -> tuple[int, Callable[[], object]]:
    """The server's process, and a call that sends everything to it."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(theirs, megabytes, dtype, old), daemon=True)
    process.start()
    port, fingerprint = ours.recv()
    assert process.pid
    given = Given(megabytes, dtype)
    if old:
        return process.pid, lambda: old_send(port, given)
    servers = Servers(
        [f"http://127.0.0.1:{port}"], key=KEY, catalog_fingerprint=fingerprint, vocabulary=1, longest=1, wait=60
    )
    engine = ServerEngine(servers, run="run", levels=3, sender=HTTPWeights(servers))

    def send() -> None:
        engine.load(given, engine.version + 1)
        engine.confirm_weights()

    return process.pid, send


def main() -> None:
    args = arguments(__doc__, megabytes=1024, repeats=3)
    half = "parts of bytes, bfloat16"
    sides = {
        "safetensors": side(args.megabytes, torch.float32, old=True),
        "parts of bytes": side(args.megabytes, torch.float32),
        half: side(args.megabytes, torch.bfloat16),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(args.repeats + 1):
        for name, (process, send) in sides.items():
            started, cpu = time.perf_counter(), cpu_seconds(process) + time.process_time()
            send()
            if turn:
                spent = cpu_seconds(process) + time.process_time() - cpu
                taken[name].append((time.perf_counter() - started, spent))
    old = np.array(taken["safetensors"])
    rows = []
    for name, values in taken.items():
        wall, cpu = np.median(values, 0)
        faster = np.median(old / np.array(values), 0)
        rows.append([name, f"{wall:.2f}", f"{cpu:.2f}", f"{faster[0]:.1f}", f"{faster[1]:.1f}"])
    print(f"{args.megabytes} MiB of float32 weights\n")
    print(markdown_rows(["", "wall s", "CPU s", "times faster, wall", "CPU"], rows))


if __name__ == "__main__":
    main()
