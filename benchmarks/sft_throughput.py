"""SFT on every position of a history: one packed row per user against one row per prefix.

python recipes/prepare.py --config recipes/beauty/data.yaml
python benchmarks/sft_throughput.py --data runs/beauty/data

Forward and backward of the same loss over the same targets, which both sides must give to rounding.
"""

import json

import numpy as np
import torch
from common import alternate, arguments, make_policy, table

from interactions import load_prepared


def main() -> None:
    args = arguments(
        __doc__, data="runs/beauty/data", users=256, history=20, hidden=128, layers=4, batch=64, repeats=5, threads=2
    )
    torch.set_num_threads(args.threads)
    catalog, splits = load_prepared(args.data)
    policy, builder = make_policy(catalog, args.hidden, args.layers, args.history)
    chosen = np.linspace(0, len(splits.train) - 1, args.users).astype(int)
    rows = sorted(splits.train.select(chosen).to_list(), key=lambda row: len(row["history"]))
    prefixes = []
    for row in rows:
        items = [*row["history"][-args.history :], row["target"]]
        prefixes += [{"history": items[:end], "target": items[end]} for end in range(1, len(items))]
    prefixes.sort(key=lambda row: len(row["history"]))  # so that little is padding
    packed = [builder(part) for part in _parts(rows, args.batch)]
    single = [builder(part) for part in _parts(prefixes, args.batch * 4)]
    losses: list[float] = []

    def ours() -> None:
        total = torch.tensor(0.0)
        for prompts in packed:
            found = policy.log_probs(prompts, prompts.target[:, None], history=True)
            predicted = prompts.history >= 0
            predicted[torch.arange(len(prompts)), predicted.int().argmax(1)] = False  # the first has nothing before it
            loss = -found.log_pf.sum() - found.log_pf_history.sum(-1)[predicted].sum()
            loss.backward()
            total += loss.detach()
        losses.append(total.item())

    def per_prefix() -> None:
        total = torch.tensor(0.0)
        for prompts in single:
            loss = -policy.log_probs(prompts, prompts.target[:, None]).log_pf.sum()
            loss.backward()
            total += loss.detach()
        losses.append(total.item())

    turns = alternate(ours, per_prefix, args.repeats)
    speedup = float(np.median(np.array(turns[1]) / np.array(turns[0])))
    rate = len(prefixes) / float(np.median(turns[0]))
    print(f"{len(rows)} users, {len(prefixes):,} targets; losses {losses[0]:.3f} and {losses[1]:.3f}")
    print(table(*turns, ("a packed row per user", "a row per prefix")))
    print(json.dumps({"targets_per_second": round(rate, 1), "speedup": round(speedup, 2)}))


def _parts(rows: list[dict], size: int) -> list[list[dict]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


if __name__ == "__main__":
    main()
