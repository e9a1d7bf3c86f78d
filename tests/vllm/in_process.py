"""vLLM in the trainer's process; run by test_in_process.py in a process of its own, which vLLM changes for good."""

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import chisquare
from vllm import SamplingParams, TokensPrompt
from vllm.exceptions import VLLMValidationError

from catalog import Catalog, node_tokens, word_tokenizer
from interactions.prompts import PromptBuilder
from policy import CausalPolicy, Exploration, inference
from recommenders import GenerativeRecommender
from samplers import PolicySampler, RolloutSampler
from samplers.rollouts.skeleton import save_skeleton
from samplers.rollouts.vllm_engine import VLLMEngine
from samplers.rollouts.weights import PolicySource, policy_weights
from tests.vllm.mixed_batch import check_mixed_batch

QWEN3 = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""vLLM's attention on a CPU has heads of 32 and 64, not of 8."""
LLAMA = {"kind": "llama"} | QWEN3
GPT2 = {"kind": "gpt2", "n_embd": 64}


@pytest.fixture
def make_engine(make_model, tokenizer, catalog, tmp_path):
    def make(**settings):
        model = make_model(**settings)
        folder, catalog_folder = save_skeleton(tmp_path / "engine", model, tokenizer, catalog)
        engine = VLLMEngine(folder, catalog_folder, longest=21, dtype="float32", weights=False)
        engine.load(PolicySource(model), 0)
        return engine, CausalPolicy(model, catalog.trie, node_tokens(tokenizer, catalog.trie))

    return make


TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}


@pytest.mark.parametrize(
    "settings",
    [QWEN3 | TIED, QWEN3 | UNTIED, LLAMA | UNTIED, GPT2 | TIED],
    ids=["qwen3-tied", "qwen3", "llama", "gpt2-tied"],
)
def test_engine_and_policy_agree_after_every_change_of_the_weights(settings, make_engine, prompts):
    engine, policy = make_engine(**settings)
    sampler = RolloutSampler(engine, policy)
    generator = torch.Generator().manual_seed(0)
    for version in range(1, 4):
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        stale = sampler.sample(prompts, 8, seed=1)
        gap = (policy.log_probs(prompts, stale.items).log_pf - stale.log_pf).abs().max()
        assert gap > 0.01  # the change can be seen
        engine.load(PolicySource(policy.model), version)
        drawn = sampler.sample(prompts, 8, seed=1)
        torch.testing.assert_close(policy.log_probs(prompts, drawn.items).log_pf, drawn.log_pf, atol=1e-4, rtol=0)
        assert (drawn.age == 0).all()
    again = sampler.sample(prompts, 8, seed=1)
    assert torch.equal(drawn.items, again.items) and torch.equal(drawn.log_pf, again.log_pf)
    assert not torch.equal(drawn.items, sampler.sample(prompts, 8, seed=2).items)
    best = RolloutSampler(engine, policy, beams=True).sample(prompts, 20, 0)
    reference = PolicySampler(policy, beams=True).sample(prompts, 20, 0)
    assert torch.equal(best.items, reference.items)
    torch.testing.assert_close(best.log_pf, reference.log_pf, atol=1e-4, rtol=0)


def test_a_finished_run_is_loaded_as_it_is(make_trainer, prompts, catalog, tmp_path):
    trainer = make_trainer(model=QWEN3)  # tb, so that there is a flow head
    trainer.train()
    trainer.save_model()
    catalog.save(tmp_path / "catalog")
    engine = VLLMEngine(trainer.args.output_dir, tmp_path / "catalog", longest=21, dtype="float32")
    drawn = RolloutSampler(engine, trainer.policy).sample(prompts, 8, seed=1)
    with inference(trainer.model):
        expected = trainer.policy.log_probs(prompts, drawn.items).log_pf
    torch.testing.assert_close(drawn.log_pf, expected, atol=1e-4, rtol=0)


def test_a_finished_run_recommends_the_same_by_vllm(make_trainer, catalog):
    trainer = make_trainer(model=QWEN3)
    trainer.train()
    trainer.save_model()
    folder, histories = trainer.args.output_dir, [["item3", "item5"], ["item7"], ["item1"] * 9]
    asked = {"k": 5, "exclude": ["item2"], "filter": [f"item{i}" for i in range(30)]}
    lists = [
        GenerativeRecommender.from_pretrained(folder, engine=engine).recommend(histories, **asked)
        for engine in ("transformers", "vllm")
    ]
    for one, other in zip(*lists, strict=True):
        assert one.items == other.items and len(one.items) == 5
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


@pytest.mark.parametrize("settings", [QWEN3, GPT2], ids=["qwen3", "gpt2"])
def test_engine_and_policy_agree_with_adapters(settings, make_model, prompts, tokenizer, catalog, tmp_path):
    modules = ["q_proj", "down_proj"] if settings is QWEN3 else ["c_attn", "c_proj"]
    lora = peft.LoraConfig(r=4, target_modules=modules, init_lora_weights=False)
    model = peft.get_peft_model(make_model(**settings), lora).eval()
    paths = save_skeleton(tmp_path / "engine", model, tokenizer, catalog)
    engine = VLLMEngine(*paths, longest=21, dtype="float32", weights=False)
    engine.load(PolicySource(model), 0)
    policy = CausalPolicy(model, catalog.trie, node_tokens(tokenizer, catalog.trie))
    drawn = RolloutSampler(engine, policy).sample(prompts, 8, seed=1)
    torch.testing.assert_close(policy.log_probs(prompts, drawn.items).log_pf, drawn.log_pf, atol=1e-4, rtol=0)
    with model.disable_adapter():
        assert (policy.log_probs(prompts, drawn.items).log_pf - drawn.log_pf).abs().max() > 0.01


def test_samples_follow_the_exact_distribution(make_model, rows, tmp_path):
    codes = np.random.default_rng(5).integers(0, [8, 9, 10], (300, 3))
    catalog = Catalog.from_codes([str(i) for i in range(200)], np.unique(codes, axis=0)[:200], sizes=(8, 9, 10))
    tokenizer = word_tokenizer(catalog.trie.sizes)
    model = make_model(**QWEN3, vocab_size=len(tokenizer))
    folder, catalog_folder = save_skeleton(tmp_path / "engine", model, tokenizer, catalog)
    engine = VLLMEngine(folder, catalog_folder, longest=16, dtype="float32", weights=False)
    engine.load(PolicySource(model), 0)
    builder = PromptBuilder(catalog, tokenizer, 5)
    prompts = builder(rows[:2])
    policy = CausalPolicy(model, catalog.trie, builder.tokens)
    exact = policy.distribution(prompts).double().softmax(-1)
    drawn = [RolloutSampler(engine, policy).sample(prompts, 2000, seed).items for seed in range(10)]
    reference = [PolicySampler(policy).sample(prompts, 500, seed).items for seed in range(20)]
    assert sum(items.numel() for items in drawn) == 40_000
    for items in (torch.cat(drawn, 1), torch.cat(reference, 1)):
        for row in range(2):
            expected = exact[row] * items.shape[1]
            observed = items[row].bincount(minlength=200).double()
            often = expected >= 5  # the usual condition; what is rare is one class
            pairs = [torch.cat([v[often], v[~often].sum().unsqueeze(0)]) for v in (observed, expected)]
            assert often.sum() > 20 and chisquare(*pairs).pvalue > 1e-3


@pytest.mark.parametrize("exploration", [Exploration(temperature=1.5), Exploration(0.8, 0.3)], ids=str)
def test_draws_that_explore_have_the_policys_log_probabilities(exploration, make_engine, prompts):
    engine, policy = make_engine(**QWEN3)
    sampler = RolloutSampler(engine, policy, exploration=exploration)
    drawn = sampler.sample(prompts, 50, seed=1)
    with inference(policy.model):
        expected = policy.log_probs(prompts, drawn.items).log_pf
    torch.testing.assert_close(drawn.log_pf, expected, atol=1e-4, rtol=0)
    assert torch.equal(sampler.sample(prompts, 50, seed=1).items, drawn.items)
    plain = RolloutSampler(engine, policy).sample(prompts, 50, seed=1)
    assert len(drawn.items.unique()) > len(plain.items.unique()) or exploration.temperature < 1


def test_requests_with_and_without_the_constraint_share_a_batch(make_engine, prompts, tokenizer):
    engine, policy = make_engine(**QWEN3)
    check_mixed_batch(engine, policy, prompts, tokenizer, repeats=8)  # the longer ones leave no room to go on
    with pytest.raises(VLLMValidationError, match="trie=-1"):
        engine.llm.generate(
            [TokensPrompt(prompt_token_ids=prompts.token_lists()[0])], SamplingParams(extra_args={"trie": -1})
        )


def test_bad_input_ends_with_one_sentence(make_engine, prompts, tokenizer, catalog, tmp_path):
    engine, policy = make_engine(**QWEN3)
    with pytest.raises(ValueError, match="has 22 tokens and the rollout engine was started for 21"):
        engine.sample([[1] * 22], 1, [0])
    for settings, message in (
        ({"gpu_memory_utilisation": 0.5}, "did not start"),
        ({"max_model_len": 9}, "set by the run"),
    ):
        with pytest.raises((RuntimeError, ValueError), match=message):
            VLLMEngine(tmp_path / "engine", tmp_path / "engine/catalog", longest=21, dtype="float32", settings=settings)
    with pytest.raises(RuntimeError, match="no item of the catalog"):
        other = Catalog.from_codes(["a"], np.zeros((1, 4), int), sizes=catalog.trie.sizes).trie
        RolloutSampler(engine, CausalPolicy(policy.model, other, node_tokens(tokenizer, other))).sample(prompts, 8, 0)


def losses(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def logged(trainer, name):
    return [record[name] for record in trainer.state.log_history if name in record]


@pytest.mark.parametrize("beams", [False, True])
def test_a_run_on_policy(beams, make_trainer):
    samplers = {"target": 1, "random": 1, "policy": {"count": 3, "beams": beams}}
    trainer = make_trainer(model=QWEN3, use_vllm=True, samplers=samplers, learning_rate=1e-2)
    trainer.train()
    assert trainer.rollouts.gap < 1e-5
    assert max(logged(trainer, "sampler/log_pf_gap_max")) < 1e-4
    assert logged(trainer, "sampler/log_pf_gap_share") == logged(trainer, "sampler/age") == [0.0] * 3
    assert logged(trainer, "sampler/valid_share") == [1.0] * 3
    assert len(logged(trainer, "time/sync_ms")) == 3


@pytest.mark.parametrize("staleness", [0, 2])
def test_rollouts_drawn_ahead_are_as_old_as_asked_and_survive_a_resume_bit_for_bit(staleness, make_trainer):
    settings = dict(
        max_steps=14,  # of 5 steps an epoch
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        save_strategy="steps",
        save_steps=7,
        samplers={"target": 1, "policy": 2, "replay": 1},
        random_cut=True,
        use_vllm=True,
        rollout_staleness=staleness,
        model=GPT2,  # with dropout
    )
    whole = make_trainer(**settings)
    whole.train()
    first = [min(step, staleness) for step in range(5)]  # an epoch begins with nothing drawn ahead
    assert logged(whole, "sampler/age") == (first * 3)[:14]
    checkpoint = Path(whole.args.output_dir) / "checkpoint-7"
    saved = load_file(checkpoint / "policy_0.safetensors") if staleness else {}
    assert len(saved) == 2 * 2 * staleness  # items and log_pf of two micro-batches a step
    again = make_trainer(**settings)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert losses(whole) == losses(again)
    for (name, ours), theirs in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    metrics = [json.loads(line) for line in (Path(whole.args.output_dir) / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics if "loss" in record] == list(range(1, 15))


def test_an_engine_with_other_weights_is_refused(make_trainer):
    trainer = make_trainer(model=QWEN3, use_vllm=True)
    load = trainer.rollouts.engine.load
    other = ((name, weight + 0.1) for name, weight in policy_weights(trainer.model, skip=("flow_heads",)))
    trainer.rollouts.engine.load = lambda weights, version: load(other, version)
    with pytest.raises(ValueError, match="differ from the policy's by up to"):
        trainer.train()


def test_a_cache_that_is_too_small_ends_with_one_sentence(make_model, tokenizer, catalog, tmp_path):
    folder, catalog_folder = save_skeleton(tmp_path / "engine", make_model(**QWEN3), tokenizer, catalog)
    with pytest.raises(
        RuntimeError, match="on a CPU kv_cache_memory_bytes"
    ):  # the last test: vLLM leaves a mess behind
        settings = {"kv_cache_memory_bytes": 1000}
        VLLMEngine(folder, catalog_folder, longest=21, dtype="float32", weights=False, settings=settings)
