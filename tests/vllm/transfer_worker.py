"""Started by torchrun: weights of a model under ZeRO-3 by vLLM's transfer into one server.

usage: transfer_worker.py MODEL DATA URL OUT
"""

import copy
import json
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

from catalog import Catalog, node_tokens
from interactions.prompts import PromptBuilder
from policy import CausalPolicy
from samplers.rollouts.client import ServerEngine
from samplers.rollouts.sampler import RolloutSampler
from samplers.rollouts.servers import Servers
from samplers.rollouts.vllm_weights import VLLMWeights
from samplers.rollouts.weights import PolicySource
from tests.vllm.gloo import BUCKET, join
from tests.vllm.servers import KEY, LONGEST
from trainer.runtime.processes import leave_group

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else the first launch compiles it for minutes
model_folder, data, url, out = sys.argv[1:]
deepspeed.init_distributed("gloo")
first = dist.get_rank() == 0
model, tokenizer = (
    AutoModelForCausalLM.from_pretrained(model_folder).eval(),
    AutoTokenizer.from_pretrained(model_folder),
)
catalog, before = Catalog.load(data), copy.deepcopy(model)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.mul_(1.1)
whole = copy.deepcopy(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
config = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
}
sharded, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
source = PolicySource(sharded, bucket_bytes=BUCKET)
metadata = source.metadata()
gathered = sum(parameter.numel() for parameter in sharded.parameters())
servers = Servers(
    [url], key=KEY, catalog_fingerprint=catalog.fingerprint, vocabulary=model.config.vocab_size, longest=LONGEST
)
sender = VLLMWeights(servers, join, BUCKET) if first else None
engine = ServerEngine(servers, run="zero 3", levels=catalog.trie.levels, sender=sender)
for version in range(2):
    engine.load(source, version)
    dist.barrier()
    engine.confirm_weights()
if first:
    rows = [{"history": list(range(n)), "target": n} for n in (1, 3, 4, 5)]
    prompts = PromptBuilder(catalog, tokenizer, 5)(rows)
    gaps = []
    for one in (whole, before):
        policy = CausalPolicy(one, catalog.trie, node_tokens(tokenizer, catalog.trie))
        found = RolloutSampler(engine, policy).sample(prompts, 16, seed=5)
        gaps.append((policy.log_probs(prompts, found.items).log_pf - found.log_pf).abs().max().item())
    names = {name: (weight.dtype, tuple(weight.shape)) for name, weight in whole.named_parameters()}
    same = {meta.name: (meta.dtype, meta.shape) for meta in metadata} == names
    result = {"metadata": same, "gathered": gathered, "difference": gaps[0], "moved": gaps[1]}
    Path(out).write_text(json.dumps(result))
dist.barrier()
leave_group()
