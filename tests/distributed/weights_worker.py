"""Started by torchrun: the weights for an engine out of every wrapping, on every rank; each rank writes what it found.

usage: weights_worker.py OUT_DIR

Each case trains one SGD step on two ranks with half a batch each and compares with a plain model on the whole batch.
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import deepspeed
import peft
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM

from samplers.rollouts.low_rank import KeptWeights
from samplers.rollouts.weights import PolicySource, buckets, policy_weights
from samplers.rollouts.wire import size
from trainer.runtime.adapters import adapt
from trainer.runtime.processes import leave_group

# otherwise the first launch compiles it for minutes
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

BUCKET = 20_000
"""Bytes: less than the embeddings, more than any other weight of the model."""
TOKENS = torch.arange(4 * 12).view(4, 12) * 7 % 150
CODES = torch.arange(100)
SIZES: dict[str, dict] = {
    "gpt2": dict(n_embd=32, n_layer=2, n_head=2, n_positions=64),
    "qwen3": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    ),
}


def make_model(kind: str, lora: dict | None, tied: bool) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=200, tie_word_embeddings=tied, **SIZES[kind])
    for name in [name for name in config.to_dict() if name.endswith("pdrop")]:
        setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_config(config)
    model.flow_heads = nn.ModuleDict({"log_z": nn.Linear(32, 1)})
    if lora:
        # as a run has it: of the embeddings the codes' rows are trained
        config = peft.LoraConfig(r=4, init_lora_weights=False, **lora)
        rows = "modules_to_save" in lora
        model = adapt(model, config, CODES, checkpointing=False) if rows else peft.get_peft_model(model, config)
    return model


def loss_of(model: Callable, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, labels=tokens).loss


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)


def step_of(model: nn.Module) -> Callable[[Tensor], None]:
    optimizer = optimizer_of(model)

    def step(tokens: Tensor) -> None:
        loss_of(model, tokens).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_ddp(model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], None]]:
    model = DistributedDataParallel(model, find_unused_parameters=True)
    return model, step_of(model)


def in_fsdp(model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], None]]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    for layer in base.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, step_of(model)


def in_zero(stage: int, threshold: int = 0) -> Callable[[nn.Module], tuple[nn.Module, Callable[[Tensor], None]]]:
    def wrap(model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], None]]:
        config = {
            "train_micro_batch_size_per_gpu": 2,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": threshold},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,  # its default is 1.0
        }
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer_of(model), config=config)

        def step(tokens: Tensor) -> None:
            engine.backward(loss_of(engine, tokens))
            engine.step()

        return engine, step

    return wrap


def reference(model: nn.Module, steps: int) -> dict[str, Tensor]:
    """The checkpoint of a plain model after `steps` on the whole batch."""
    step = step_of(model)
    for _ in range(steps):
        step(TOKENS)
    if isinstance(model, peft.PeftModel):
        model = copy.deepcopy(model).merge_and_unload()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("flow_heads.")}
    return {name: tensor for name, tensor in state.items() if name not in model.all_tied_weights_keys}


def gathered_bytes(model: nn.Module) -> int:
    """What of ZeRO-3's partitioned weights lies on this rank in full."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if hasattr(p, "ds_id"))


def watched(model: nn.Module, peaks: list[int]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in policy_weights(model, skip=("flow_heads",), bucket_bytes=BUCKET):
        peaks.append(gathered_bytes(model))
        yield name, tensor


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours.keys() & theirs.keys())


def case(wrap: Callable, kind: str = "qwen3", lora: dict | None = None, tied: bool = False) -> dict:
    model, step = wrap(make_model(kind, lora, tied))
    mine = TOKENS.chunk(dist.get_world_size())[dist.get_rank()]
    found, peaks, kept = [], [], KeptWeights(torch.device("cpu"))
    source, pieces = PolicySource(model, ("flow_heads",), BUCKET), 0
    for steps in (0, 1, 2):  # gathering between steps must not disturb the training
        if steps:
            step(mine)
        groups = list(buckets(watched(model, peaks), BUCKET))
        ours = {name: tensor for group in groups for name, tensor in group.items()}
        theirs = reference(make_model(kind, lora, tied), steps)
        found.append({"names": sorted(ours) == sorted(theirs), "difference": largest_difference(ours, theirs)})
        if source.has_pieces:  # what a server merges that keeps the base of the first time
            sent = source.pieces(base=steps == 0)
            kept.load_weights(iter(sent))
            pieces = sum(map(size, sent.metadata()))
            found[-1]["merged"] = largest_difference(dict(kept), ours) if dict(kept).keys() == ours.keys() else 1.0
    stopped = watched(model, peaks)
    next(stopped)
    stopped.close()  # on all ranks alike: nothing hangs, nothing stays gathered
    return {
        "steps": found,
        "moved": largest_difference(theirs, reference(make_model(kind, lora, tied), 0)),
        "buckets": len(groups),
        "pieces": pieces,
        "gathered": max(peaks),
        "left_gathered": gathered_bytes(model),
        "whole": sum(tensor.nbytes for tensor in theirs.values()),
    }


LINEAR = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
CASES: dict[str, Callable[[], dict]] = {
    "ddp": lambda: case(in_ddp),
    "ddp, lora": lambda: case(in_ddp, lora=LINEAR | {"modules_to_save": ["norm"]}),
    "zero 1": lambda: case(in_zero(1)),
    "zero 2, tied": lambda: case(in_zero(2), tied=True),
    "zero 2, lora": lambda: case(in_zero(2), lora=LINEAR),
    "zero 3": lambda: case(in_zero(3)),
    "zero 3, small weights always gathered": lambda: case(in_zero(3, threshold=100_000)),
    "zero 3, tied gpt2": lambda: case(in_zero(3), kind="gpt2", tied=True),
    "zero 3, lora": lambda: case(in_zero(3), lora=LINEAR | {"modules_to_save": ["norm"]}),
    "zero 3, lora on gpt2 and its embeddings": lambda: case(
        in_zero(3), kind="gpt2", lora={"target_modules": ["c_attn", "c_fc", "wte"]}
    ),
    "fsdp 2": lambda: case(in_fsdp),
    "fsdp 2, tied": lambda: case(in_fsdp, tied=True),
    "fsdp 2, lora": lambda: case(in_fsdp, lora=LINEAR),
}


def main() -> None:
    deepspeed.init_distributed("gloo")
    results = {name: run() for name, run in CASES.items()}
    (Path(sys.argv[1]) / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.barrier()
    leave_group()


if __name__ == "__main__":
    main()
