"""Ranking every test user of a data set by a trie-constrained beam, and the beam beside transformers' own.

python recipes/prepare.py --config recipes/beauty/data.yaml
python benchmarks/ranking.py --data runs/beauty/data

All users are ranked once. A batch of them is then ranked in turn by ours and by transformers' `generate` with beams and
a prefix_allowed_tokens_fn that reads a dictionary of prefixes. At last `batches` batches, spread over all lengths of
history, are ranked at several widths, in turn for the whole beam and for its best k. The policy is untrained unless
--model names a checkpoint: the sharper it is, the more of the beam is settled early.
"""

import argparse
import json
import time
from functools import partial

import numpy as np
import torch
from common import alternate, arguments, by_generate, make_policy, table

from catalog import code_of_token
from evaluation.markdown import markdown_rows
from interactions import load_prepared
from policy import inference
from recommenders import GenerativeRecommender


def main() -> None:
    args = arguments(
        __doc__,
        data="runs/beauty/data",
        model="",
        beam=50,
        k=10,
        history=20,
        hidden=128,
        layers=4,
        batch=64,
        batches=8,
        repeats=3,
        threads=2,
    )
    torch.set_num_threads(args.threads)
    catalog, splits = load_prepared(args.data)
    if args.model:
        recommender = GenerativeRecommender.from_pretrained(args.model, device="cpu")
        catalog, policy, builder = recommender.catalog, recommender.policy, recommender.prompts
    else:
        policy, builder = make_policy(catalog, args.hidden, args.layers, args.history)
        recommender = GenerativeRecommender(policy, builder, catalog)
    trie, rows = catalog.trie, splits.test
    histories = rows["history"][:]
    started = time.perf_counter()
    recommender.rank(histories, args.beam, k=args.k, exclude_history=False, batch_size=args.batch)
    seconds = time.perf_counter() - started
    prompts = builder(rows.select(np.linspace(0, len(rows) - 1, args.batch).astype(int)).to_list())
    search = by_generate(policy, prompts, args.beam, beams=True)
    code = code_of_token(builder.tokens, trie, policy.model.config.vocab_size)
    best = []

    def ours() -> None:
        best.append(trie.codes(policy.beam(prompts, args.beam)[0]))

    def generate() -> None:
        with inference(policy.model):
            best.append(code[search()].unflatten(0, (args.batch, args.beam)))

    turns = alternate(ours, generate, args.repeats)
    same = (best[0] == best[1]).all(-1).float().mean().item()  # both leave ties and near ties to rounding
    speedup = float(np.median(np.array(turns[1]) / np.array(turns[0])))
    print(f"{len(rows):,} users, {trie.leaves:,} semantic IDs, beam {args.beam}: {seconds:.0f} s")
    print(table(*turns, ("ours", "generate")))
    print(f"the same item at the same place: {same:.2%}")
    rates = cut(recommender, histories, args)
    head = ["beam", "all of it, users/s", f"its best {args.k}, users/s"]
    print(markdown_rows(head, [[str(value) for value in row] for row in rates]))
    result = {"users_per_second": round(len(rows) / seconds, 1), "speedup": round(speedup, 2), "same": same}
    print(json.dumps(result | {"widths": {width: rate for width, *rate in rates}}))


def cut(recommender: GenerativeRecommender, histories: list[list[int]], args: argparse.Namespace) -> list[list[float]]:
    """For each width: itself, and how many users a second are ranked by all of the beam and by its best k."""
    ordered = sorted(histories, key=len)
    starts = np.linspace(0, len(ordered) - args.batch, args.batches).astype(int)
    some = [history for start in starts for history in ordered[start : start + args.batch]]
    rates = []
    for width in sorted({args.k, args.beam, 100, 128}):
        rank = partial(recommender.rank, some, width, exclude_history=True, batch_size=args.batch)
        turns = alternate(rank, partial(rank, k=args.k), args.repeats)
        rates.append([width, *(round(len(some) / float(np.median(seconds)), 1) for seconds in turns)])
    return rates


if __name__ == "__main__":
    main()
