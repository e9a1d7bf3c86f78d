"""Ranking every test user of a data set by a trie-constrained beam, and the beam beside transformers' own.

python recipes/prepare.py --config recipes/beauty/data.yaml
python benchmarks/ranking.py --data runs/beauty/data

All users are ranked once, by the best k of the beam. A batch of them is then ranked in turn by ours, to the end of the
beam, and by transformers' `generate` with beams and a prefix_allowed_tokens_fn that reads a dictionary of prefixes.
Last, batches spread over all lengths of history are ranked at several widths, in turn for the whole beam and for its
best k. The policy is untrained unless --model names a checkpoint's folder: how sharp it is decides how much k can save.
"""

import json
import time

import numpy as np
import torch
from common import alternate, arguments, by_generate, make_policy, table

from catalog import code_of_token
from interactions import load_prepared
from policy import inference
from recommenders import GenerativeRecommender


def main() -> None:
    args = arguments(
        __doc__, data="runs/beauty/data", beam=20, history=20, hidden=128, layers=4, batch=64, repeats=3, threads=2
    )
    torch.set_num_threads(args.threads)
    catalog, splits = load_prepared(args.data)
    policy, builder = make_policy(catalog, args.hidden, args.layers, args.history)
    trie, rows = catalog.trie, splits.test
    recommender, histories = GenerativeRecommender(policy, builder, catalog), rows["history"][:]
    started = time.perf_counter()
    recommender.rank(histories, args.beam, exclude_history=False, batch_size=args.batch)
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
    print(json.dumps({"users_per_second": round(len(rows) / seconds, 1), "speedup": round(speedup, 2), "same": same}))


if __name__ == "__main__":
    main()
