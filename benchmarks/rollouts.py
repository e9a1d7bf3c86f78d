"""Rollouts by the colocated vLLM engine against transformers' generate with a prefix_allowed_tokens_fn.

python benchmarks/rollouts.py

CPU seconds of the process and wall seconds, one thread each, medians. Histories of up to 20 items, as in the paper, and
of up to 50, as in recipes/ml-100k; the last line is of the latter. Beside them: what the trie constraint adds to
unconstrained sampling, what handing over weights costs, how far the log-probabilities of engine and policy are apart
after training, and the cost of the constraint for catalogs of 1,000 to 1,000,000 items.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import arguments, by_generate, device, make_catalog, make_policy, make_prompts, on_device, settle

from catalog import Catalog, word_tokenizer
from interactions import PromptBatch
from policy import CausalPolicy
from samplers import RolloutSampler
from samplers.rollouts.skeleton import save_skeleton
from samplers.rollouts.vllm_engine import VLLMEngine
from samplers.rollouts.weights import PolicySource

SIZES = dict(prompts=64, samples=16, levels=4, hidden=128, layers=4, items=12_000, repeats=3)


def measure(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median (CPU, wall) seconds of each call after one warm-up, taken in turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            settle()
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            settle()
            if turn:
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: tuple(np.median(values, 0)) for name, values in taken.items()}


def train(policy: CausalPolicy, prompts: PromptBatch, steps: int) -> None:
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = -policy.log_probs(prompts, prompts.target.unsqueeze(1)).log_pf.sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def start(policy: CausalPolicy, catalog: Catalog, prompts: PromptBatch, folder: str) -> VLLMEngine:
    paths = save_skeleton(Path(folder), policy.model, word_tokenizer(catalog.trie.sizes), catalog)
    engine = VLLMEngine(*paths, longest=prompts.input_ids.shape[1], dtype="float32", weights=False)
    engine.load(PolicySource(policy.model), 0)
    return engine


def constraint_ms(items: int, rows: int) -> float:
    """Median milliseconds of the constraint on one step of `rows` requests, half-way through their IDs."""
    from samplers.rollouts.constraint import TrieConstraint

    catalog = make_catalog(items, 4, 256)
    trie, tokens = catalog.trie, 4 + make_policy(catalog, 32, 1, 1, heads=1)[1].tokens
    logits = torch.randn(rows, int(tokens.max()) + 1, device=device())
    taken = tokens[trie.path(torch.arange(rows) * (items // rows) % items)[:, 1:3]].to(device())
    constraint = TrieConstraint(trie.to(device()), tokens.to(device()), logits.shape[1], end=0)
    seconds = measure({"apply": lambda: constraint.apply(logits, taken)}, 30)["apply"]
    return 1000 * seconds[1]


def compare(catalog: Catalog, items: int, args: argparse.Namespace) -> dict[str, float]:
    """CPU and wall seconds of both at histories of `items` / 2 to `items` items; prints a table."""
    policy, builder = make_policy(catalog, args.hidden, args.layers, items, heads=4, widening=2)
    policy = on_device(policy)
    prompts = make_prompts(builder, catalog, args.prompts, items).to(device())
    valid = {tuple(path) for path in policy.tokens[catalog.trie.path(torch.arange(args.items))[:, 1:]].tolist()}
    lists = prompts.token_lists()
    seeds = [2**32 + 1000 * row for row in range(args.prompts)]
    shared = {"n": args.samples, "max_tokens": args.levels, "logprobs": 0}
    with tempfile.TemporaryDirectory() as folder:
        engine = start(policy, catalog, prompts, folder)
        drawn, _ = engine.sample(lists, args.samples, seeds)

        def draw(prefix: int | None) -> None:  # a step's prompts are new to the cache
            engine.llm.reset_prefix_cache()
            engine.generate(lists, prefix, shared, seeds)

        load = {"load": lambda: engine.load(PolicySource(policy.model), 0)}
        seconds = measure({"vLLM": lambda: draw(0), "vLLM without the trie": lambda: draw(None)}, 3 * args.repeats)
        seconds |= measure(load, 10)
    seconds |= measure({"generate": by_generate(policy, prompts, args.samples)}, args.repeats)
    print(f"{args.prompts} prompts of up to {prompts.input_ids.shape[1]} tokens, {args.samples} samples each,")
    print(f"{args.items:,} items, {policy.model.num_parameters():,} parameters\n")
    print("| | CPU s | wall s |\n| --- | --- | --- |")
    for name, (cpu, wall) in seconds.items():
        print(f"| {name} | {cpu:.3f} | {wall:.3f} |")
    print()
    return {
        "speedup": round(seconds["generate"][0] / seconds["vLLM"][0], 2),
        "wall_speedup": round(seconds["generate"][1] / seconds["vLLM"][1], 2),
        "constraint_overhead": round(seconds["vLLM"][0] / seconds["vLLM without the trie"][0] - 1, 3),
        "valid_share": float(np.mean([tuple(path) in valid for path in drawn.flatten(0, 1).tolist()])),
        "sync_ms": round(1000 * seconds["load"][1], 2),
    }


def gap_after_training(catalog: Catalog, args: argparse.Namespace, tied: bool) -> float:
    """The largest difference of a step's log-probability after 50 steps of training and one `load`."""
    policy, builder = make_policy(catalog, args.hidden, args.layers, 20, heads=4, widening=2)
    policy = on_device(policy)
    policy.model.config.tie_word_embeddings = tied
    policy.model.tie_weights()
    prompts = make_prompts(builder, catalog, args.prompts, 20).to(device())
    with tempfile.TemporaryDirectory() as folder:
        engine = start(policy, catalog, prompts, folder)
        train(policy, prompts, 50)
        engine.load(PolicySource(policy.model), 1)
    drawn = RolloutSampler(engine, policy).sample(prompts, args.samples, 1)
    with torch.no_grad():
        return (policy.log_probs(prompts, drawn.items).log_pf - drawn.log_pf).abs().max().item()


def main() -> None:
    args = arguments(__doc__, **SIZES)
    catalog = make_catalog(args.items, args.levels, 256)
    short, long = (compare(catalog, items, args) for items in (20, 50))
    gaps = {name: gap_after_training(catalog, args, tied) for name, tied in (("untied", False), ("tied", True))}
    print("largest difference of a step's log P_F after 50 training steps: ", end="")
    print(", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items()))
    print("\n| items | ms of the constraint on a step of 1,024 requests |\n| --- | --- |")
    for items in (1_000, 10_000, 100_000, 1_000_000):
        print(f"| {items:,} | {constraint_ms(items, 1024):.2f} |")
    print(json.dumps(long | {"max_logprob_diff": max(gaps.values()), "speedup_20_items": short["speedup"]}))


if __name__ == "__main__":
    main()
