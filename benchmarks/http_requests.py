"""Users a second over HTTP, one history a request, against the same recommender in Python.

python benchmarks/http_requests.py [--items 12000 --hidden 128 --layers 4 --users 640 --repeats 3]

Both have the machine's cores; the clients have a share of them too, as requests from elsewhere would not.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from common import arguments, make_catalog, make_policy

from catalog import Catalog, word_tokenizer
from evaluation.markdown import markdown_rows
from policy.base import unwrap_model
from recommenders import GenerativeRecommender
from recommenders.policy_folder import PolicyRecord, write_record
from serving.listening import bind

K, WIDTH, HISTORY = 10, 50, 20
CONCURRENCY = (1, 8, 32)
PYTHON = "in Python, batches of 64"


def write_run(folder: Path, catalog: Catalog, hidden: int, layers: int, heads: int = 8) -> None:
    """A checkpoint of untrained weights."""
    policy, _ = make_policy(catalog, hidden, layers, HISTORY, heads)
    unwrap_model(policy.model).save_pretrained(folder)
    word_tokenizer(catalog.trie.sizes).save_pretrained(folder)
    write_record(folder, PolicyRecord("sft", HISTORY), catalog, torch.ones(len(catalog), dtype=torch.int64))


def start(folder: Path) -> tuple[subprocess.Popen, int]:
    """The server, once it answers, and its port."""
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "recipes/serve.py", "--model", str(folder), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "GFLOWGR_API_KEY"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("Next: "):
        assert process.poll() is None
    return process, port


async def client(port: int, bodies: Iterator[bytes], seconds: list[float]) -> None:
    """Requests one after the other over one connection; the seconds of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for body in bodies:
        started = time.perf_counter()
        writer.write(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        seconds.append(time.perf_counter() - started)
    writer.close()


async def load(port: int, bodies: Sequence[bytes], concurrency: int) -> tuple[float, list[float]]:
    """Seconds of all requests by so many clients, and of each."""
    seconds: list[float] = []
    waiting = iter(bodies)
    started = time.perf_counter()
    await asyncio.gather(*(client(port, waiting, seconds) for _ in range(concurrency)))
    return time.perf_counter() - started, seconds


def summary(rates: dict[str, list[float]], latency: dict[str, list[float]]) -> str:
    """Medians of users a second, their share of those in Python, and quantiles of the requests' milliseconds."""
    rows = []
    for name, values in rates.items():
        share = np.median(values) / np.median(rates[PYTHON])
        quantiles = np.quantile(latency.get(name, [np.nan]), (0.5, 0.99))
        rows.append([name, f"{np.median(values):.0f}", f"{share:.0%}", *(f"{1000 * each:.0f}" for each in quantiles)])
    return markdown_rows(["", "users/s", "of Python's", "p50 ms", "p99 ms"], rows)


def main() -> None:
    args = arguments(__doc__, items=12_000, hidden=128, layers=4, users=640, repeats=3)
    catalog = make_catalog(args.items, 4, 256)
    rng = np.random.default_rng(0)
    histories = [[str(item) for item in rng.integers(args.items, size=rng.integers(3, 16))] for _ in range(args.users)]
    bodies = [json.dumps({"history": history, "k": K}).encode() for history in histories]
    with tempfile.TemporaryDirectory() as place:
        write_run(Path(place), catalog, args.hidden, args.layers)
        recommender = GenerativeRecommender.from_pretrained(place, device="cpu")
        process, port = start(Path(place))
        try:
            rates: dict[str, list[float]] = {}
            latency: dict[str, list[float]] = {}
            for turn in range(args.repeats + 1):
                for concurrency in CONCURRENCY:
                    name = f"HTTP, {concurrency} clients"
                    some = bodies if concurrency > 1 else bodies[: args.users // 8]
                    total, seconds = asyncio.run(load(port, some, concurrency))
                    if turn:
                        rates.setdefault(name, []).append(len(some) / total)
                        latency.setdefault(name, []).extend(seconds)
                started = time.perf_counter()
                recommender.recommend(histories, K, beam_width=WIDTH)
                if turn:
                    rates.setdefault(PYTHON, []).append(args.users / (time.perf_counter() - started))
        finally:
            process.terminate()
            assert process.wait(60) == 0
    print(summary(rates, latency))


if __name__ == "__main__":
    main()
