"""Started by torchrun: a few steps on the 48-item catalogue; the first process writes losses and a weight sum.

usage: worker.py OUT_DIR BATCH_PER_PROCESS
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

from catalog import Catalog, word_tokenizer
from trainer import GFlowNetConfig, GFlowNetTrainer

out, batch = Path(sys.argv[1]), int(sys.argv[2])
config = GFlowNetConfig(
    output_dir=str(out),
    use_cpu=True,
    ddp_backend="gloo",
    per_device_train_batch_size=batch,
    max_steps=4,
    max_history=6,
    optim="sgd",
    learning_rate=0.05,
    logging_steps=1,
    save_strategy="no",
    disable_tqdm=True,
    samplers={"target": 1},
)
codes = np.random.default_rng(0).integers(0, [4, 5, 6], (48, 3))
catalog = Catalog.from_codes([f"item{i}" for i in range(48)], codes)
tokenizer = word_tokenizer(catalog.trie.sizes)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(
    AutoConfig.for_model(
        "qwen3",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
    )
)
rng = np.random.default_rng(3)
rows = [{"user": str(i), "history": rng.integers(0, 48, rng.integers(2, 10)).tolist(), "target": i} for i in range(32)]
rows = Dataset.from_list(rows)
trainer = GFlowNetTrainer(
    model, config, train_dataset=rows, eval_dataset=rows.select(range(31)), processing_class=tokenizer, catalog=catalog
)
trainer.train()
metrics = trainer.evaluate()
if trainer.accelerator.is_main_process:
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    weights = sum(p.double().abs().sum().item() for p in trainer.model.parameters())
    (out / "result.json").write_text(
        json.dumps(
            {
                "processes": trainer.accelerator.num_processes,
                "losses": losses,
                "weights": weights,
                "metrics": metrics,
            }
        )
    )
