"""Lists of ten at several beams, loads and catalogues: ours in process and over HTTP, transformers' and vLLM's beams.

python benchmarks/serve.py
python benchmarks/serve.py --quick 1
python benchmarks/serve.py --model runs/beauty/sft

transformers' `generate` has a prefix_allowed_tokens_fn that reads a dictionary of prefixes. vLLM's `LLM.beam_search`
knows no catalogue, so places of its lists may be no item: nearly all where the policy is untrained or was trained along
the trie alone. --model names a checkpoint; for vLLM the fair one is of `normalization: vocabulary`. In process a call
has as many histories as are asked at once; over HTTP as many clients ask for one list each. --quick 1: a part that ends
after a minute or two. --sides: which of the four run.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, by_generate, legal_tokens, make_catalog
from http_requests import load, start, write_run
from torch import Tensor

from catalog import Trie, code_of_token
from evaluation.markdown import markdown_rows
from policy import inference
from recommenders import GenerativeRecommender

K = 10
COLUMNS = ("items", "side", "beam", "at once", "requests/s", "p50 ms", "p99 ms", "illegal")
Call = Callable[[list[list[str]], int], Tensor]
"""(histories, beam width) -> the codes of each list [B, K, L], -1 for a token that is no code."""


def in_process(recommender: GenerativeRecommender) -> Call:
    def call(histories: list[list[str]], beam: int) -> Tensor:
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

    def call(histories: list[list[str]], beam: int) -> Tensor:
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

    def call(histories: list[list[str]], beam: int) -> Tensor:
        rows = prompts_of(recommender, histories).token_lists()
        asked = BeamSearchParams(beam_width=beam, max_tokens=levels, ignore_eos=True)
        llm.reset_prefix_cache()  # a request's history is new
        found = llm.beam_search([TokensPrompt(prompt_token_ids=row) for row in rows], asked)
        return code[torch.tensor([[one.tokens[-levels:] for one in each.sequences[:K]] for each in found])]

    return call


def prompts_of(recommender: GenerativeRecommender, histories: list[list[str]]) -> Any:
    number = recommender.ids.number
    return recommender.prompts([{"history": [number[item] for item in history]} for history in histories])


def code_table(recommender: GenerativeRecommender) -> Tensor:
    """The code of each token, -1 for one that is no code: [V]."""
    size = recommender.policy.model.config.vocab_size
    return code_of_token(recommender.prompts.tokens, recommender.catalog.trie, size)


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The port of a server of the checkpoint in `folder`."""
    process, port = start(folder)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(60)


def row(key: tuple[int, str, int, int], rate: float, seconds: list[float], codes: Tensor, trie: Trie) -> dict:
    """A line of the table, printed at once: key for its first columns, codes [B, K, L] of some of the lists."""
    p50, p99 = (1000 * float(np.quantile(seconds, share)) for share in (0.5, 0.99))
    illegal = (trie.leaf(codes) < 0).float().mean().item()
    values = (*key, round(rate, 1), round(p50, 1), round(p99, 1), round(illegal, 4))
    print(" | ".join(str(value) for value in values), flush=True)
    return dict(zip(COLUMNS, values, strict=True))


def measure(recommender: GenerativeRecommender, side: str, call: Call, args: argparse.Namespace) -> list[dict]:
    """A row for each beam and load, after one call that does not count."""
    rows, trie = [], recommender.catalog.trie
    for beam, at_once in product(args.beams, args.loads):
        call(histories_for(recommender, at_once, 0), beam)
        seconds, found = [], []
        for turn in range(args.calls):
            histories = histories_for(recommender, at_once, turn + 1)
            started = time.perf_counter()
            found.append(call(histories, beam))
            seconds.append(time.perf_counter() - started)
        rate = at_once * len(seconds) / sum(seconds)
        rows.append(row((trie.items, side, beam, at_once), rate, seconds, torch.cat(found), trie))
    return rows


def measure_http(recommender: GenerativeRecommender, folder: Path, args: argparse.Namespace) -> list[dict]:
    """The same of a server."""
    rows, trie = [], recommender.catalog.trie
    with serving(folder) as port:
        for beam, at_once in product(args.beams, args.loads):
            histories = histories_for(recommender, at_once * args.calls, 0)
            bodies = [json.dumps({"history": one, "k": K, "beam_width": beam}).encode() for one in histories]
            asyncio.run(load(port, bodies[:at_once], at_once))
            total, seconds = asyncio.run(load(port, bodies, at_once))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/recommend", bodies[0]) as answer:
                codes = codes_of(recommender, [one["items"] for one in json.load(answer)["results"]])
            rows.append(row((trie.items, "ours, HTTP", beam, at_once), len(bodies) / total, seconds, codes, trie))
    return rows


def histories_for(recommender: GenerativeRecommender, count: int, seed: int) -> list[list[str]]:
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
        calls=5,
        threads=2,
        quick=0,
    )
    if args.quick:
        args.items, args.beams, args.loads, args.calls = "12000", "10", "1,8", 2
    for name in ("items", "beams", "loads"):
        setattr(args, name, [int(value) for value in getattr(args, name).split(",")])
    args.sides = args.sides.split(",")
    return args


def measure_all(folders: list[Path], args: argparse.Namespace) -> Iterator[list[dict]]:
    """The rows of every side for the checkpoint in each folder."""
    made = [(GenerativeRecommender.from_pretrained(folder, device="cpu"), folder) for folder in folders]
    for recommender, folder in made:
        if "python" in args.sides:
            yield measure(recommender, "ours", in_process(recommender), args)
        if "http" in args.sides:
            yield measure_http(recommender, folder, args)
        if "generate" in args.sides:
            yield measure(recommender, "generate", with_generate(recommender), args)
    if "vllm" in args.sides:  # last, since it sets the threads of the whole process
        for recommender, folder in made:
            yield measure(recommender, "vLLM", with_vllm(recommender, folder), args)


def main() -> None:
    args = read_arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(args.model)] if args.model else [Path(place, str(items)) for items in args.items]
        if not args.model:
            for items, folder in zip(args.items, folders, strict=True):
                write_run(folder, make_catalog(items, 4, 256), args.hidden, args.layers, heads=4)
        rows = [row for some in measure_all(folders, args) for row in some]
    print("\n" + markdown_rows(list(COLUMNS), [[str(value) for value in each.values()] for each in rows]))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
