"""What a training step and a guided beam cost beside the catalog's size.

python benchmarks/scale.py
python benchmarks/scale.py --items 10000000 --no-all --data 0

Of a step of flow_kl the part that touches the catalog is what draws trajectories (the target and a recommender's
curriculum) and what scores them (hit and collaborative rewards, exact flows); `share` is its CPU time over that of the
rest of the step. With `all` flows are matched along the histories too and kept; a step after the first epoch is
measured. The guided beam counts the same item-kNN and is compared with the plain one in turn. Medians, one thread.
With `--data` come `prepare` of so many events, and the trie and files of so many items, see scale_data.py.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import make_catalog, make_policy
from datasets import Dataset
from scale_data import data_figures
from scipy.sparse import csr_matrix

from catalog import Catalog, word_tokenizer
from evaluation.markdown import markdown_rows
from recommenders import Guide, ItemKNN
from trainer import GFlowNetConfig, GFlowNetTrainer


def make_rows(users: int, items: int, history: int) -> Dataset:
    """Users with `history` / 2 to `history` items before the target, a few items much more popular than most."""
    rng = np.random.default_rng(3)
    rows = []
    for user in range(users):
        length = history if user % 4 == 0 else int(rng.integers(history // 2, history + 1))
        taken = rng.permutation(np.unique((items * rng.random(2 * length + 2) ** 3).astype(int)))[: length + 1].tolist()
        rows.append({"user": f"u{user}", "history": taken[:-1], "target": taken[-1]})
    return Dataset.from_list(rows)


def make_trainer(
    catalog: Catalog, rows: Dataset, knn: ItemKNN, args: argparse.Namespace, **settings: Any
) -> GFlowNetTrainer:
    config = GFlowNetConfig(
        output_dir=tempfile.mkdtemp(),
        max_history=args.history,
        per_device_train_batch_size=args.batch,
        max_steps=100,
        disable_tqdm=True,
        save_strategy="no",
        objective="flow_kl",
        rewards={"hit": 1.0, "collaborative": 1.0},
        **settings,
    )
    model = make_policy(catalog, args.hidden, args.layers, args.history)[0].model
    tokenizer = word_tokenizer(catalog.trie.sizes)
    return GFlowNetTrainer(
        model, config, train_dataset=rows, processing_class=tokenizer, catalog=catalog, recommender=knn
    )


def measure(trainer: GFlowNetTrainer, args: argparse.Namespace) -> tuple[float, float]:
    """CPU seconds of a step's part that touches the catalog and of the rest, after one step that is not counted."""
    spent = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            started = time.process_time()
            found = call(*given)
            spent[0] += time.process_time() - started
            return found

        return run

    trainer.rollouts.draw = timed(trainer.rollouts.draw)  # type: ignore[method-assign]
    trainer.method.score = timed(trainer.method.score)  # type: ignore[method-assign]
    trainer.model.train()
    trainer.state.global_step = 1  # the first step of a run also checks the forward
    batch = [trainer.train_dataset[i] for i in range(args.batch)]
    found = []
    for _ in range(args.repeats + 1):
        spent[0], started = 0.0, time.process_time()
        (micro_batch,), total = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
        trainer.training_step(trainer.model, micro_batch, total)
        trainer.model.zero_grad()
        found.append((spent[0], time.process_time() - started - spent[0]))
    touching, rest = np.median(found[1:], 0)
    return float(touching), float(rest)


def beams(catalog: Catalog, rows: Dataset, knn: ItemKNN, args: argparse.Namespace) -> float:
    """CPU time of a guided beam over that of the plain one."""
    policy, builder = make_policy(catalog, args.hidden, args.layers, args.history)
    prompts = builder([{"history": rows[i]["history"]} for i in range(64)])
    guide, ratios = Guide(knn), []
    for _ in range(args.repeats + 1):
        started = time.process_time()
        policy.beam(prompts, args.beam, prompts.history)
        middle = time.process_time()
        policy.beam(prompts, args.beam, prompts.history, guide(prompts, catalog.trie))
        ratios.append((time.process_time() - middle) / (middle - started))
    return float(np.median(ratios[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 12_000, 100_000, 1_000_000])
    parser.add_argument("--dense", type=int, default=100_000, help="up to so many items the dense form is measured too")
    for name, default in {
        "levels": 4,
        "width": 256,
        "batch": 16,
        "reward_items": 200,
        "history": 20,
        "beam": 50,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in {"hidden": 128, "layers": 4, "users": 4_000, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--data", type=int, default=10_000_000, help="events and items of the data, 0 for none")
    parser.add_argument(
        "--all", action=argparse.BooleanOptionalAction, default=True, help="flow_positions: all as well"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    share: dict[str, dict[int, float]] = {}
    table = []
    for items in args.items:
        catalog, rows = make_catalog(items, args.levels, args.width), make_rows(args.users, items, args.history)
        users = np.repeat(np.arange(len(rows)), [len(row["history"]) + 1 for row in rows])
        taken = np.concatenate([[*row["history"], row["target"]] for row in rows])
        seen = csr_matrix((np.ones(len(taken), np.float32), (users, taken)), (len(rows), items))
        knn = ItemKNN.fit(seen, 100)
        curriculum = {"target": 1, "curriculum": 2}
        runs: dict[str, dict[str, Any]] = {"sparse": {"samplers": curriculum, "reward_items": args.reward_items}}
        if items <= args.dense:
            runs["dense"] = {"samplers": curriculum, "reward_items": 0}
        if args.all:
            kept = {"samplers": {"target": 1}, "flow_positions": "all", "keep_flows": True}
            runs["all, kept"] = kept | {"reward_items": args.reward_items}
        for name, settings in runs.items():
            touching, rest = measure(make_trainer(catalog, rows, knn, args, **settings), args)
            share.setdefault(name, {})[items] = round(touching / rest, 3)
            table.append([f"{items:,}", name, f"{1000 * touching:.1f}", f"{1000 * rest:.1f}", f"{touching / rest:.3f}"])
        ratio = beams(catalog, rows, knn, args)
        share.setdefault("guided beam", {})[items] = round(ratio, 3)
        table.append([f"{items:,}", "guided beam", "", "", f"{ratio:.3f}"])
    print(markdown_rows(["items", "what", "catalog ms", "rest ms", "share"], table))
    print(json.dumps({"share": share} | (data_figures(args.data) if args.data else {})))


if __name__ == "__main__":
    main()
