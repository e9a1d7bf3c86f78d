"""Started by benchmarks/memory.py: what one process of a recipe really holds; one JSON file a rank.

usage: memory_worker.py OUT_DIR RECIPE        under torchrun: single, ddp, zero1, zero2, zero3 or fsdp2, in float32
       memory_worker.py OUT_DIR activations   alone: one forward and backward of `CausalPolicy.log_probs`
"""

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from common import alive, make_catalog, make_prompts, peak, storage_bytes
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile
from transformers import Qwen2Config, Qwen2ForCausalLM

from catalog import word_tokenizer
from interactions import PromptBuilder
from policy import CausalPolicy
from trainer.runtime.processes import leave_group

# otherwise the first launch compiles it for minutes
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

MODEL: dict[str, Any] = dict(
    hidden_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=2,
    intermediate_size=2048,
    vocab_size=8192,
    tie_word_embeddings=True,
)
"""34 million parameters."""
BUCKET = 5_000_000
"""Elements of ZeRO's reduction bucket: its default, 5e8, would be all that one sees on a model of this size."""
BATCH: dict[str, int] = dict(batch=4, trajectories=8, max_history=20, levels=4)
SETTINGS = [  # of the activations: (precision, gradient checkpointing, vocabulary)
    (precision, checkpointing, vocabulary)
    for vocabulary in (2048, 32_768)
    for precision in ("float32", "bfloat16", "autocast")
    for checkpointing in (False, True)
]


def build(**changes: Any) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**(MODEL | changes)))


# what a process keeps between steps


def wrapped(recipe: str, model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], None], Callable[[], None], list]:
    """(the model as the recipe trains it, backward of a loss, the optimizer's step, what no Python object holds)."""
    hidden: list[Tensor] = []
    if recipe.startswith("zero"):
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {
                "stage": int(recipe[-1]),
                "stage3_param_persistence_threshold": 0,
                "reduce_bucket_size": BUCKET,
            },
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,
        }
        engine, *_ = deepspeed.initialize(model=model, optimizer=adam(model), config=config)
        return engine, engine.backward, engine.step, hidden
    if recipe == "ddp":
        model = DistributedDataParallel(model)
        model.register_comm_hook(hidden, watch_buckets)
    if recipe == "fsdp2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in [*model.model.layers, model]:
            fully_shard(layer, mesh=mesh)
    optimizer = adam(model)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return model, lambda loss: loss.backward(), step, hidden


def watch_buckets(seen: list[Tensor], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """All-reduce as DDP does by itself, and note the bucket, which no Python object holds."""
    seen.append(bucket.buffer())
    work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)  # as transformers does by default


def states(recipe: str) -> dict[str, int]:
    """Bytes of this process: held between backward and the optimizer's step, at the step's peak, resident growth."""
    warm = torch.randn(256, 256, requires_grad=True)
    (warm @ warm).sum().backward()  # thread pools and libraries
    before_tensors, before_resident = storage_bytes(alive()), resident()
    model, backward, step, hidden = wrapped(recipe, build())
    tokens = torch.arange(16).view(1, 16)

    def gradients() -> None:
        hidden.clear()
        backward(model(input_ids=tokens, labels=tokens).loss)

    for _ in range(2):  # the second time DDP makes its buckets anew
        gradients()
        step()
    gc.collect()
    kept = storage_bytes([*alive(), *hidden]) - before_tensors
    with profile(profile_memory=True) as profiler:
        gradients()
        held = storage_bytes([*alive(), *hidden]) - before_tensors
        grown = resident() - before_resident
        step()
    return {"held": held, "peak": kept + peak(profiler), "resident": grown}


def resident() -> int:
    """Bytes of main memory that the kernel counts for this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# what a forward and backward needs beside


def activations(precision: str, checkpointing: bool, vocabulary: int) -> int:
    """Bytes at the peak of one forward and backward above what was there before, by the allocator's own events."""
    catalog = make_catalog(2000, BATCH["levels"], 256)
    tokenizer = word_tokenizer(catalog.trie.sizes)
    model = build(vocab_size=vocabulary)
    if precision == "bfloat16":
        model.bfloat16()
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    builder = PromptBuilder(catalog, tokenizer, BATCH["max_history"])
    prompts = make_prompts(builder, catalog, BATCH["batch"], BATCH["max_history"])
    policy = CausalPolicy(model, catalog.trie, builder.tokens)
    items = torch.randint(len(catalog), (BATCH["batch"], BATCH["trajectories"]))
    for parameter in model.parameters():  # so that gradients, which have a row of their own, are not counted here
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            output = policy.log_probs(prompts, items, history=True)
            loss = output.log_pf.sum() + output.log_pf_history.where(prompts.history.unsqueeze(-1) >= 0, 0).sum()
        del output
        loss.backward()

    step()
    with profile(profile_memory=True) as profiler:
        step()
    return peak(profiler)


def main() -> None:
    folder, recipe = Path(sys.argv[1]), sys.argv[2]
    if recipe == "activations":
        (folder / "rank0.json").write_text(json.dumps([activations(*setting) for setting in SETTINGS]))
        return
    deepspeed.init_distributed("gloo")
    found = states(recipe)
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    leave_group()


if __name__ == "__main__":
    main()
