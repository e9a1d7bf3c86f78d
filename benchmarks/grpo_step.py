"""A GRPO step of ours beside one of TRL's GRPOTrainer, on the same model, prompts, group size and reward.

python benchmarks/grpo_step.py

A step is everything: 16 trajectories of the policy per prompt, rewards, forward, backward and AdamW. Both draw in the
process, ours constrained to the catalog by the trie, TRL with transformers' generate over the whole vocabulary, as it
knows no catalog. TRL runs as fast as it goes here: no gradient checkpointing, no reference policy, no dropout, one
generation and one forward a step, nothing logged. Prompts are of 129 tokens: a start token and 32 items of 4 codes.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable

import numpy as np
import torch
import trl
from common import alternate, arguments, device, make_catalog, make_policy, table
from datasets import Dataset

from catalog import Catalog, word_tokenizer
from interactions import prompt_texts
from trainer import GRPOConfig, GRPOTrainer

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
RATE = 1e-4
SIZES = dict(items=12_000, levels=4, width=256, prompts=8, samples=16, history=32, hidden=128, layers=4, repeats=7)
COMMON = dict(report_to="none", save_strategy="no", disable_tqdm=True, max_steps=1000, logging_steps=1000)


def make_rows(prompts: int, items: int, history: int) -> list[dict]:
    rng = np.random.default_rng(3)
    return [
        {"history": rng.choice(items, history, replace=False).tolist(), "target": int(rng.integers(items))}
        for _ in range(prompts)
    ]


def ours(catalog: Catalog, rows: list[dict], args: argparse.Namespace) -> Callable[[], None]:
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_history=args.history,
        per_device_train_batch_size=args.prompts,
        samplers={"policy": args.samples},
        rewards={"hit": 1.0, "similarity": 1.0},
        use_cpu=device().type == "cpu",
        **COMMON,
    )
    trainer = GRPOTrainer(
        make_policy(catalog, args.hidden, args.layers, args.history)[0].model,
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=word_tokenizer(catalog.trie.sizes),
        catalog=catalog,
    )
    optimizer = torch.optim.AdamW(trainer.model.parameters(), RATE)

    def step() -> None:
        trainer.model.train()
        (micro_batch,), total = trainer.get_batch_samples(iter([rows]), 1, trainer.args.device)
        trainer.training_step(trainer.model, micro_batch, total)
        optimizer.step()
        optimizer.zero_grad()

    return step


def theirs(catalog: Catalog, rows: list[dict], args: argparse.Namespace) -> Callable[[], None]:
    policy, builder = make_policy(catalog, args.hidden, args.layers, args.history)
    tokenizer = word_tokenizer(catalog.trie.sizes)
    batch = builder(rows)
    targets = builder.tokens[catalog.trie.path(batch.target)[:, 1:]].tolist()
    texts = [
        {"prompt": text, "codes": codes} for text, codes in zip(prompt_texts(batch, tokenizer), targets, strict=True)
    ]

    def reward(completion_ids: list[list[int]], codes: list[list[int]], **columns: object) -> list[float]:
        matched = [sum(map(int.__eq__, a, b)) for a, b in zip(completion_ids, codes, strict=True)]
        return [count / catalog.trie.levels + (count == catalog.trie.levels) for count in matched]

    config = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=args.prompts * args.samples,
        num_generations=args.samples,
        max_completion_length=catalog.trie.levels,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=device().type == "cpu",
        **COMMON,
    )
    trainer = trl.GRPOTrainer(
        policy.model, reward, config, train_dataset=Dataset.from_list(texts), processing_class=tokenizer
    )
    trainer.current_gradient_accumulation_steps = 1
    optimizer = torch.optim.AdamW(trainer.model.parameters(), RATE)
    repeated = [row for row in texts for _ in range(args.samples)]
    assert all(len(ids) == batch.input_ids.shape[1] for ids in tokenizer([row["prompt"] for row in texts])["input_ids"])

    def step() -> None:
        trainer.model.train()
        trainer.training_step(trainer.model, repeated, None)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of a step of ours, and of TRL's."""
    catalog = make_catalog(args.items, args.levels, args.width)
    rows = make_rows(args.prompts, args.items, args.history)
    return alternate(ours(catalog, rows, args), theirs(catalog, rows, args), args.repeats)


def main() -> None:
    own, other = measure(arguments(__doc__, **SIZES))
    print(table(own, other, ("ours", "TRL")))
    seconds = {"ours_seconds": float(np.median(own)), "trl_seconds": float(np.median(other))}
    print(json.dumps(seconds | {"speedup": float(np.median(np.array(other) / np.array(own)))}))


if __name__ == "__main__":
    main()
