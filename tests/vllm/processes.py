"""Started by torchrun: a few steps with an engine in each process; the first process writes what was logged.

usage: processes.py OUT_DIR TENSOR_PARALLEL [SERVER ...]
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

from catalog import Catalog, word_tokenizer
from tests.vllm.servers import SHAPE
from trainer import GFlowNetConfig, GFlowNetTrainer

out, parallel, servers = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
codes = np.random.default_rng(0).integers(0, [4, 5, 6], (48, 3))
catalog = Catalog.from_codes([f"item{i}" for i in range(48)], codes)
tokenizer = word_tokenizer(catalog.trie.sizes)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", vocab_size=len(tokenizer), **SHAPE))
rng = np.random.default_rng(3)
rows = [{"user": str(i), "history": rng.integers(0, 48, rng.integers(2, 10)).tolist(), "target": i} for i in range(32)]
config = GFlowNetConfig(
    output_dir=str(out),
    use_cpu=True,
    ddp_backend="gloo",
    per_device_train_batch_size=4,
    max_steps=3,
    max_history=6,
    learning_rate=0.01,
    logging_steps=1,
    save_strategy="no",
    disable_tqdm=True,
    samplers={"target": 1, "policy": 4},
    use_vllm=True,
    vllm_engine={"tensor_parallel_size": parallel} if parallel > 1 else None,
    vllm_mode="server" if servers else "colocate",
    **({"vllm_server_base_url": servers} if servers else {}),
)
trainer = GFlowNetTrainer(
    model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, catalog=catalog
)
trainer.train()
drawn = trainer.mixture().sample(trainer.prompts(rows[4 * config.process_index :][:4]), seed=5).items
every = trainer.accelerator.gather(drawn).tolist()
if trainer.accelerator.is_main_process:
    log = [record for record in trainer.state.log_history if "loss" in record]
    result = {"processes": trainer.accelerator.num_processes, "gap": trainer.rollout_gap, "log": log, "drawn": every}
    (out / "result.json").write_text(json.dumps(result))
trainer.end_training()
