"""Many processes of a run at one rollout server: their draws at once against one after the other.

python benchmarks/rollout_clients.py [--clients 16 --prompts 8 --samples 2 --repeats 5]

Engine, server and clients are in one process, over loopback, with one thread for the engine. A server that drew one
request at a time took as long for all of them as they take here one after the other.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import uvicorn
from common import arguments, device, make_catalog, make_policy, make_prompts

from catalog import word_tokenizer
from evaluation.markdown import markdown_rows
from samplers.rollouts.client import ServerEngine
from samplers.rollouts.http_weights import HTTPWeights
from samplers.rollouts.server import make_app
from samplers.rollouts.servers import Servers
from samplers.rollouts.skeleton import save_skeleton
from samplers.rollouts.vllm_engine import VLLMEngine
from samplers.rollouts.weights import PolicySource
from serving.http_limits import server_config
from serving.listening import bind

KEY = "a key of more than 16 characters"
SIZES = dict(clients=16, prompts=8, samples=2, levels=4, hidden=64, layers=2, items=12_000, repeats=5)


@contextmanager
def running(args: argparse.Namespace) -> Iterator[tuple[list[ServerEngine], list[list[list[int]]], VLLMEngine]]:
    """The clients' engines, the prompts of each, and the server's engine."""
    catalog = make_catalog(args.items, args.levels, 256)
    policy, builder = make_policy(catalog, args.hidden, args.layers, 20, heads=2, widening=2)
    lists = make_prompts(builder, catalog, args.clients * args.prompts, 20).token_lists()
    vocabulary, longest = policy.model.config.vocab_size, max(map(len, lists))
    with tempfile.TemporaryDirectory() as folder, bind("127.0.0.1", 0) as listener:
        paths = save_skeleton(Path(folder), policy.model, word_tokenizer(catalog.trie.sizes), catalog)
        engine = VLLMEngine(*paths, longest=longest, dtype="float32", weights=False)
        app = make_app(engine, key=KEY, catalog=catalog, vocabulary=vocabulary, longest=longest)
        listener.listen()
        server = uvicorn.Server(server_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        known = dict(catalog_fingerprint=catalog.fingerprint, vocabulary=vocabulary, longest=longest, wait=60)
        servers = Servers([f"http://127.0.0.1:{listener.getsockname()[1]}"], key=KEY, **known)  # type: ignore[arg-type]
        clients = [
            ServerEngine(servers, run="run", levels=args.levels, sender=None if place else HTTPWeights(servers))
            for place in range(args.clients)
        ]
        for client in clients:
            client.load(PolicySource(policy.model.to(device())), 0)
            client.confirm_weights()
        yield clients, [lists[place :: args.clients] for place in range(args.clients)], engine
        server.should_exit = True
        thread.join()


def measure(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], float]:
    """(wall, CPU) seconds of each turn of both sides [repeats, 2], and the share of the draws that are the same."""
    with running(args) as (clients, prompts, engine), ThreadPoolExecutor(args.clients) as threads:
        seeds = [
            [2**32 + 1000 * (args.prompts * place + row) for row in range(args.prompts)]
            for place in range(len(clients))
        ]

        def draw(place: int) -> torch.Tensor:
            return clients[place].sample(prompts[place], args.samples, seeds[place])[0]

        sides: dict[str, Callable[[], list[torch.Tensor]]] = {
            "one after the other": lambda: [draw(place) for place in range(args.clients)],
            "at once": lambda: list(threads.map(draw, range(args.clients))),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        drawn = {}
        for turn in range(args.repeats + 1):
            for name, call in sides.items():
                engine.llm.reset_prefix_cache()  # a step's prompts are new to it
                wall, cpu = time.perf_counter(), time.process_time()
                drawn[name] = torch.stack(call())
                if turn:
                    taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    same = (drawn["one after the other"] == drawn["at once"]).all(-1).float().mean().item()
    return {name: np.array(values) for name, values in taken.items()}, same


def main() -> None:
    args = arguments(__doc__, **SIZES)
    taken, same = measure(args)
    alone, together = taken.values()
    print(f"{args.clients} clients with {args.prompts} prompts each, {args.samples} samples of a prompt\n")
    rows = [[name, *(f"{value:.2f}" for value in np.median(values, 0))] for name, values in taken.items()]
    rows.append(["times faster", *(f"{ratio:.1f}" for ratio in np.median(alone / together, 0))])
    print(markdown_rows(["", "wall s", "CPU s"], rows))
    print(f"\nshare of the draws that are the same: {same:.5f}")


if __name__ == "__main__":
    main()
