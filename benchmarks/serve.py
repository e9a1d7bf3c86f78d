"""Lists of ten at several beams, loads and catalogs: ours in process and over HTTP, transformers' and vLLM's beams.

python benchmarks/serve.py
python benchmarks/serve.py --quick 1
python benchmarks/serve.py --sides python,http --items 12000 --beams 50 --loads 1,8,32,64 --calls 10
python benchmarks/serve.py --model runs/beauty/sft

transformers' `generate` has a prefix_allowed_tokens_fn that reads a dictionary of prefixes. vLLM's `LLM.beam_search`
knows no catalog, so places of its lists may be no item: nearly all where the policy is untrained or was trained along
the trie alone. --model names a checkpoint; for vLLM the fair one is of `normalization: vocabulary`. In process a call
has as many histories as are asked at once; over HTTP as many clients ask for one list each, and they have a share of
the machine's cores, as requests from elsewhere would not. The sides take turns of so many calls, so that a drifting
machine slows all of them; vLLM comes last, since it sets the threads of the whole process. --quick 1: a part that ends
after a minute or two. --sides: which of the four run.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, by_generate, legal_tokens, make_catalog, make_policy
from torch import Tensor

from catalog import Catalog, Trie, code_of_token, word_tokenizer
from evaluation.markdown import markdown_rows
from policy import inference
from policy.base import unwrap_model
from recommenders import GenerativeRecommender
from recommenders.policy_folder import PolicyRecord, write_record
from serving.listening import bind

K, HISTORY = 10, 20
COLUMNS = ("items", "side", "beam", "at once", "requests/s", "of ours", "p50 ms", "p99 ms", "illegal")
OURS = "ours"
Histories = list[list[str]]
Call = Callable[[Histories, int], Tensor]
"""(histories, beam width) -> the codes of each list [B, K, L], -1 for a token that is no code."""
Side = Callable[[list[Histories], int], tuple[float, list[float], Tensor]]
"""(calls, beam width) -> seconds of all and of each request, and the codes of some of the lists [n, K, L]."""


def in_process(recommender: GenerativeRecommender) -> Call:
    def call(histories: Histories, beam: int) -> Tensor:
        lists = recommender.recommend(histories, K, beam_width=beam)
        return codes_of(recommender, [ranked.items for ranked in lists])

    return call


def codes_of(recommender: GenerativeRecommender, lists: Sequence[Sequence[str]]) -> Tensor:
    """The codes [B, K, L] of lists of item ids."""
    number = recommender.ids.number
    return recommender.catalog.trie.codes(torch.tensor([[number[item] for item in items] for items in lists]))


def with_generate(recommender: GenerativeRecommender) -> Call:
    policy = recommender.policy
    legal, code = legal_tokens(policy), code_table(recommender)

    def call(histories: Histories, beam: int) -> Tensor:
        prompts = prompts_of(recommender, histories)
        with inference(policy.model):
            found = by_generate(policy, prompts, beam, beams=True, legal=legal)()
        return code[found].unflatten(0, (len(histories), beam))[:, :K]

    return call


def with_vllm(recommender: GenerativeRecommender, folder: Path) -> Call:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    from vllm import LLM, TokensPrompt
    from vllm.sampling_params import BeamSearchParams

    levels, code = recommender.catalog.trie.levels, code_table(recommender)
    longest = recommender.prompts.longest + levels
    llm = LLM(str(folder), dtype="float32", enforce_eager=True, block_size=32, max_model_len=longest, max_logprobs=-1)

    def call(histories: Histories, beam: int) -> Tensor:
        rows = prompts_of(recommender, histories).token_lists()
        asked = BeamSearchParams(beam_width=beam, max_tokens=levels, ignore_eos=True)
        llm.reset_prefix_cache()  # a request's history is new
        found = llm.beam_search([TokensPrompt(prompt_token_ids=row) for row in rows], asked)
        return code[torch.tensor([[one.tokens[-levels:] for one in each.sequences[:K]] for each in found])]

    return call


def prompts_of(recommender: GenerativeRecommender, histories: Histories) -> Any:
    number = recommender.ids.number
    return recommender.prompts([{"history": [number[item] for item in history]} for history in histories])


def code_table(recommender: GenerativeRecommender) -> Tensor:
    """The code of each token, -1 for one that is no code: [V]."""
    size = recommender.policy.model.config.vocab_size
    return code_of_token(recommender.prompts.tokens, recommender.catalog.trie, size)


def timed(call: Call) -> Side:
    """One call after the other."""

    def side(calls: list[Histories], beam: int) -> tuple[float, list[float], Tensor]:
        seconds, found = [], []
        for histories in calls:
            started = time.perf_counter()
            found.append(call(histories, beam))
            seconds.append(time.perf_counter() - started)
        return sum(seconds), seconds, torch.cat(found)

    return side


def over_http(recommender: GenerativeRecommender, port: int) -> Side:
    """As many clients as a call has histories."""

    def side(calls: list[Histories], beam: int) -> tuple[float, list[float], Tensor]:
        asked = [{"history": one, "k": K, "beam_width": beam} for histories in calls for one in histories]
        bodies = [json.dumps(one).encode() for one in asked]
        total, seconds = asyncio.run(load(port, bodies, len(calls[0])))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/recommend", bodies[0]) as answer:
            codes = codes_of(recommender, [one["items"] for one in json.load(answer)["results"]])
        return total, seconds, codes

    return side


def write_run(folder: Path, catalog: Catalog, hidden: int, layers: int, heads: int = 4) -> None:
    """A checkpoint of untrained weights."""
    policy, _ = make_policy(catalog, hidden, layers, HISTORY, heads)
    unwrap_model(policy.model).save_pretrained(folder)
    word_tokenizer(catalog.trie.sizes).save_pretrained(folder)
    write_record(folder, PolicyRecord("sft", HISTORY), catalog, torch.ones(len(catalog), dtype=torch.int64))


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The port of a server of the checkpoint in `folder`, once it answers."""
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "recipes/serve.py", "--model", str(folder), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "GFLOWGR_API_KEY"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("Next: "):
        assert process.poll() is None
    try:
        yield port
    finally:
        process.terminate()
        assert process.wait(60) == 0


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


def measure(recommender: GenerativeRecommender, sides: dict[str, Side], args: argparse.Namespace) -> list[dict]:
    """A row for each beam, load and side: medians over the turns, before which each is called once."""
    rows, trie = [], recommender.catalog.trie
    for beam, at_once in product(args.beams, args.loads):
        found: dict[str, list[tuple[float, list[float], Tensor]]] = {name: [] for name in sides}
        for turn in range(args.turns + 1):
            seeds = range(turn * args.calls, (turn + 1) * args.calls) if turn else range(1)
            calls = [histories_for(recommender, at_once, seed) for seed in seeds]
            for name, side in sides.items():
                asked = side(calls, beam)
                if turn:
                    found[name].append(asked)
        for name, turns in found.items():
            totals, seconds, codes = zip(*turns, strict=True)
            rate = at_once * args.calls / float(np.median(totals))
            rows.append(row((trie.items, name, beam, at_once), rate, sum(seconds, []), torch.cat(codes), trie))
    return rows


def row(key: tuple[int, str, int, int], rate: float, seconds: list[float], codes: Tensor, trie: Trie) -> dict:
    """A line of the table, printed at once: key for its first columns, codes [B, K, L] of some of the lists."""
    p50, p99 = (1000 * float(np.quantile(seconds, share)) for share in (0.5, 0.99))
    illegal = (trie.leaf(codes) < 0).float().mean().item()
    values = (*key, round(rate, 1), None, round(p50, 1), round(p99, 1), round(illegal, 4))
    print(" | ".join(str(value) for value in values if value is not None), flush=True)
    return dict(zip(COLUMNS, values, strict=True))


def beside_ours(rows: list[dict]) -> list[dict]:
    """The rows with each rate's share of the best of ours in process, of any load, for these items and this beam."""
    best: dict[tuple[int, int], float] = {}
    for one in rows:
        if one["side"] == OURS:
            key = one["items"], one["beam"]
            best[key] = max(best.get(key, 0.0), one["requests/s"])
    shares = [best.get((one["items"], one["beam"])) for one in rows]
    return [
        one | {"of ours": share and round(one["requests/s"] / share, 2)}
        for one, share in zip(rows, shares, strict=True)
    ]


def histories_for(recommender: GenerativeRecommender, count: int, seed: int) -> Histories:
    rng, ids = np.random.default_rng(seed), recommender.catalog.item_ids
    return [[ids[item] for item in rng.integers(len(ids), size=rng.integers(3, 16))] for _ in range(count)]


def read_arguments() -> argparse.Namespace:
    args = arguments(
        __doc__,
        model="",
        items="12000,1000000",
        beams="10,50,128",
        loads="1,8,32",
        sides="python,http,generate,vllm",
        hidden=128,
        layers=4,
        turns=3,
        calls=2,
        threads=2,
        quick=0,
    )
    if args.quick:
        args.items, args.beams, args.loads, args.turns = "12000", "10", "1,8", 1
    for name in ("items", "beams", "loads"):
        setattr(args, name, [int(value) for value in getattr(args, name).split(",")])
    args.sides = args.sides.split(",")
    return args


def measure_all(folders: list[Path], args: argparse.Namespace) -> Iterator[list[dict]]:
    """The rows of every side for the checkpoint in each folder."""
    made = [(GenerativeRecommender.from_pretrained(folder, device="cpu"), folder) for folder in folders]
    for recommender, folder in made:
        with ExitStack() as servers:
            sides: dict[str, Side] = {}
            if "python" in args.sides:
                sides[OURS] = timed(in_process(recommender))
            if "http" in args.sides:
                sides["ours, HTTP"] = over_http(recommender, servers.enter_context(serving(folder)))
            if "generate" in args.sides:
                sides["generate"] = timed(with_generate(recommender))
            yield measure(recommender, sides, args)
    if "vllm" in args.sides:
        for recommender, folder in made:
            yield measure(recommender, {"vLLM": timed(with_vllm(recommender, folder))}, args)


def main() -> None:
    args = read_arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(args.model)] if args.model else [Path(place, str(items)) for items in args.items]
        if not args.model:
            for items, folder in zip(args.items, folders, strict=True):
                write_run(folder, make_catalog(items, 4, 256), args.hidden, args.layers)
        rows = beside_ours([row for some in measure_all(folders, args) for row in some])
    print("\n" + markdown_rows(list(COLUMNS), [[str(value) for value in each.values()] for each in rows]))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
