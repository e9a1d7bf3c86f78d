"""What a GFlowNet step costs beside an SFT step on the same prompts and model, and what exact flows cost.

python benchmarks/step_cost.py

A step is everything: trajectories (the target and a recommender's curriculum), three rewards, forward and
backward. SFT trains every position of the histories, and so does the SFT term of the GFlowNet step.
"""

import json
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from common import alternate, arguments, make_catalog, make_policy
from datasets import Dataset
from scipy.sparse import csr_matrix

from catalog import Catalog, exact_log_flow, word_tokenizer
from recommenders import ItemKNN
from trainer import GFlowNetConfig, GFlowNetTrainer, RecommenderTrainer, SFTConfig, SFTTrainer


def make_rows(users: int, items: int, history: int) -> Dataset:
    rng = np.random.default_rng(3)
    rows = []
    for user in range(users):
        length = history if user % 4 == 0 else int(rng.integers(history // 2, history + 1))
        taken = rng.choice(items, length + 1, replace=False).tolist()
        rows.append({"user": f"u{user}", "history": taken[:-1], "target": taken[-1]})
    return Dataset.from_list(rows)


def make_trainer(method: str, count: int, catalog: Catalog, rows: Dataset, args: object) -> RecommenderTrainer:
    """A trainer of the paper's kind with `count` trajectories per prompt, or of SFT."""
    settings = dict(
        output_dir=tempfile.mkdtemp(),
        max_history=args.history,
        per_device_train_batch_size=args.prompts,
        max_steps=100,
        disable_tqdm=True,
        save_strategy="no",
    )
    model = make_policy(catalog, args.hidden, args.layers, args.history)[0].model
    parts = dict(train_dataset=rows, processing_class=word_tokenizer(catalog.trie.sizes), catalog=catalog)
    if method == "sft":
        return SFTTrainer(model, SFTConfig(**settings), **parts)
    taken = np.concatenate([[*row["history"], row["target"]] for row in rows])
    users = np.repeat(np.arange(len(rows)), [len(row["history"]) + 1 for row in rows])
    seen = csr_matrix((np.ones(len(taken), np.float32), (users, taken)), (len(rows), len(catalog)))
    config = GFlowNetConfig(
        **settings,
        objective=method,
        samplers={"target": 1, "curriculum": count - 1},
        rewards={"hit": 1.0, "collaborative": 1.0, "similarity": 0.1},
    )
    return GFlowNetTrainer(model, config, recommender=ItemKNN.fit(seen, 20), **parts)


def step(trainer: RecommenderTrainer, rows: list[dict]) -> None:
    """One optimizer step without the optimizer: trajectories, rewards, loss and gradients."""
    trainer.model.train()
    trainer.state.global_step = 1  # the first step of a run also checks the forward and starts the flow head
    (micro_batch,), total = trainer.get_batch_samples(iter([rows]), 1, trainer.args.device)
    trainer.training_step(trainer.model, micro_batch, total)
    trainer.model.zero_grad()


def main() -> None:
    args = arguments(
        __doc__, items=12_000, levels=4, width=256, prompts=64, history=20, hidden=128, layers=4, users=2_000, repeats=7
    )
    catalog = make_catalog(args.items, args.levels, args.width)
    rows = make_rows(args.users, args.items, args.history)
    batch = [rows[i] for i in range(args.prompts)]

    def run(method: str, count: int = 1) -> Callable[[], None]:
        return partial(step, make_trainer(method, count, catalog, rows, args), batch)

    print("| step | median s | times the SFT step beside it |")
    print("| --- | --- | --- |")
    figures = {}
    for name, call in {
        "n4": run("tb", 4),
        "n16": run("tb", 16),
        "exact_tb_n4": run("exact_tb", 4),
        "flow_kl_n4": run("flow_kl", 4),
    }.items():
        seconds, sft_seconds = alternate(call, run("sft"), args.repeats)
        ratio = np.array(seconds) / np.array(sft_seconds)
        figures[f"ratio_{name}"] = float(np.median(ratio))
        print(f"| {name} | {np.median(seconds):.3f} | {ratio.min():.2f} – {np.median(ratio):.2f} – {ratio.max():.2f} |")
    log_reward = torch.randn(args.prompts, args.items)
    seconds, step_seconds = alternate(
        lambda: exact_log_flow(log_reward, catalog.trie), run("exact_tb", 4), args.repeats
    )
    share = float(np.median(np.array(seconds) / np.array(step_seconds)))
    print(
        f"\nexact flows of {args.prompts} x {args.items:,}: {np.median(seconds) * 1000:.1f} ms, {share:.1%} of a step"
    )
    print(json.dumps(figures | {"exact_flow_share": share}))


if __name__ == "__main__":
    main()
