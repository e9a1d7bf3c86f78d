"""The weights for an engine are those of a checkpoint."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from samplers.rollouts.weights import PolicySource, buckets, policy_weights

LINEAR = ["q_proj", "v_proj", "down_proj"]
CONV1D = ["c_attn", "c_proj", "c_fc"]


def checkpoint(model, folder):
    """What a saved checkpoint holds: name -> tensor."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def weights_of(model, **settings):
    return {name: tensor.clone() for name, tensor in policy_weights(model, **settings)}


def same(ours, theirs, *, atol=0.0):
    assert sorted(ours) == sorted(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_a_source_knows_what_it_will_give_and_rounds_what_is_wider(dtype, tied, make_model, with_lora):
    for model in (make_model(tie_word_embeddings=tied), with_lora(tied=tied, target_modules=["q_proj"])):
        source = PolicySource(model, dtype=dtype)
        given = [(name, weight.dtype, tuple(weight.shape)) for name, weight in source]
        assert given == source.metadata() and {kind for _, kind, _ in given} == {dtype or torch.float32}
        exact = weights_of(model)
        same({name: weight.clone() for name, weight in source}, {n: w.to(dtype or w.dtype) for n, w in exact.items()})
    half = make_model().bfloat16()
    assert {weight.dtype for _, weight in PolicySource(half, dtype=torch.float32)} == {torch.bfloat16}


def merged(model, folder):
    return checkpoint(copy.deepcopy(model).merge_and_unload(), folder)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "llama"])
def test_names_and_bits_of_a_saved_checkpoint(make_model, tmp_path, kind, tied):
    model = make_model(kind, tie_word_embeddings=tied)
    ours = weights_of(model)
    same(ours, checkpoint(model, tmp_path))
    assert ("lm_head.weight" in ours) is not tied
    assert not any(tensor.requires_grad for _, tensor in policy_weights(model))


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_a_fresh_model_with_these_weights_gives_the_same_logits(make_model, with_lora, kind):
    model = with_lora(kind, target_modules=CONV1D if kind == "gpt2" else LINEAR)
    fresh = AutoModelForCausalLM.from_config(make_model(kind, tie_word_embeddings=False).config).eval()
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        before = fresh(tokens).logits
        fresh.load_state_dict(weights_of(model), strict=True)
        expected = model(tokens).logits
        torch.testing.assert_close(fresh(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert (before - expected).abs().max() > 0.1


def test_flow_heads_are_left_out_and_nothing_that_is_only_called_like_them(make_model, tmp_path):
    model = make_model()
    expected = checkpoint(model, tmp_path)
    model.flow_heads = nn.ModuleDict({"log_z": nn.Linear(4, 1)})
    same(weights_of(model, skip=("flow_heads", "lm")), expected)
    assert {"flow_heads.log_z.weight", "flow_heads.log_z.bias"} == set(weights_of(model)) - set(expected)


@pytest.mark.parametrize("hung_on", ["the backbone", "the adapted model"])
def test_flow_heads_of_an_adapted_model_are_left_out(with_lora, tmp_path, hung_on):
    model = with_lora(target_modules=LINEAR)
    expected = merged(model, tmp_path)
    owner = model.get_base_model() if hung_on == "the backbone" else model
    owner.flow_heads = nn.ModuleDict({"log_z": nn.Linear(4, 1)})
    same(weights_of(model, skip=("flow_heads",)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen3", dict(target_modules=LINEAR)),
        ("qwen3", dict(target_modules=LINEAR, tied=True)),
        ("qwen3", dict(target_modules=LINEAR, use_rslora=True, rank_pattern={"q_proj": 2})),
        ("llama", dict(target_modules="all-linear")),
        ("gpt2", dict(target_modules=CONV1D, bias="all")),
        ("gpt2", dict(target_modules=CONV1D, tied=True, fan_in_fan_out=True)),
        ("gpt2", dict(target_modules=["wte", "c_attn"])),
        ("qwen3", dict(target_modules=["embed_tokens", "q_proj", "lm_head"])),
        ("qwen3", dict(target_modules=LINEAR, modules_to_save=["embed_tokens", "lm_head", "norm"])),
        ("qwen3", dict(target_modules=LINEAR, modules_to_save=["embed_tokens"], ensure_weight_tying=True, tied=True)),
    ],
)
def test_lora_is_added_as_a_merge_would_and_the_trained_weights_keep_their_bits(with_lora, tmp_path, kind, settings):
    model = with_lora(kind, **settings)
    before, untrained = bits(model), checkpoint(copy.deepcopy(model).unload(), tmp_path / "unloaded")
    expected = merged(model, tmp_path / "merged")
    ours = weights_of(model)
    same(ours, expected, atol=1e-6)
    assert max((expected[name] - untrained[name]).abs().max() for name in expected) > 0.1
    same(bits(model), before)


def test_two_active_adapters_are_both_added(with_lora, tmp_path):
    model = with_lora(target_modules=LINEAR, adapters=("default", "second"))
    one = weights_of(model)
    model.base_model.set_adapter(["default", "second"])
    same(weights_of(model), merged(model, tmp_path), atol=1e-6)
    assert (weights_of(model)["model.layers.0.mlp.down_proj.weight"] - one["model.layers.0.mlp.down_proj.weight"]).any()


def test_a_merged_adapter_is_not_added_twice(with_lora, tmp_path):
    model = with_lora(target_modules=LINEAR)
    expected = merged(model, tmp_path)
    model.merge_adapter()
    same(weights_of(model), expected)


@pytest.mark.parametrize("first_merged", [False, True])
def test_a_disabled_adapter_does_not_count(with_lora, tmp_path, first_merged):
    model = with_lora(target_modules=LINEAR)
    expected = checkpoint(copy.deepcopy(model).unload(), tmp_path)
    if first_merged:
        model.merge_adapter()
    with model.disable_adapter():
        same(weights_of(model), expected, atol=1e-6 if first_merged else 0)


def test_of_a_disabled_adapter_the_original_modules_count(with_lora):
    model = with_lora(target_modules=LINEAR, modules_to_save=["norm"])
    original = model.get_base_model().model.norm.original_module.weight
    assert not weights_of(model)["model.norm.weight"].equal(original)
    with model.disable_adapter():
        assert weights_of(model)["model.norm.weight"].equal(original)


def test_adapters_of_a_bfloat16_model_are_added_in_their_own_precision(with_lora, tmp_path):
    model = with_lora(target_modules=LINEAR).bfloat16()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    ours = weights_of(model)
    assert {tensor.dtype for tensor in ours.values()} == {torch.bfloat16}
    same(ours, merged(model, tmp_path))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (dict(target_modules=LINEAR, use_dora=True), "DoraLinearVariant"),
        (dict(target_modules=["embed_tokens"], use_dora=True), "DoraEmbeddingVariant"),
        (dict(target_modules=CONV1D, lora_bias=True, backbone="gpt2"), "lora_bias"),
        (dict(target_modules=LINEAR, trainable_token_indices=[1, 2]), "TrainableTokensLayer"),
    ],
)
def test_what_is_not_base_plus_delta_is_refused_by_its_kind(with_lora, settings, kind):
    model = with_lora(settings.pop("backbone", "qwen3"), **settings)
    with pytest.raises(ValueError, match=f"is of the kind {kind}, .* use plain LoRA"):
        next(policy_weights(model))


@pytest.mark.parametrize(("config", "kind"), [("IA3Config", "IA3"), ("PromptTuningConfig", "PROMPT_TUNING")])
def test_adapters_other_than_lora_are_refused(make_model, config, kind):
    import peft

    settings = {"num_virtual_tokens": 2} if kind == "PROMPT_TUNING" else {"target_modules": LINEAR}
    if kind == "IA3":
        settings["feedforward_modules"] = ["down_proj"]
    model = peft.get_peft_model(make_model(), getattr(peft, config)(task_type="CAUSAL_LM", **settings))
    with pytest.raises(ValueError, match=f"{kind}.*use LoRA"):
        next(policy_weights(model))


@pytest.mark.parametrize("settings", [dict(target_modules=["embed_tokens"]), dict(modules_to_save=["embed_tokens"])])
def test_an_adapter_that_unties_a_tied_model_is_refused(with_lora, settings):
    model = with_lora(tied=True, **({"target_modules": LINEAR} | settings))
    with pytest.raises(ValueError, match="ties 'lm_head.weight' .* tie_word_embeddings=False"):
        next(policy_weights(model))


def test_wrappings_do_not_show_in_the_names(make_model, with_lora, tmp_path):
    model = make_model()
    expected = checkpoint(model, tmp_path / "plain")
    same(weights_of(nn.DataParallel(model)), expected)
    same(weights_of(torch.compile(model)), expected)
    adapted = with_lora(target_modules=LINEAR)
    same(weights_of(torch.compile(nn.DataParallel(adapted))), merged(adapted, tmp_path / "merged"), atol=1e-6)


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 200))
def test_buckets_hold_all_weights_once_in_order_and_no_more_than_they_may(sizes, limit):
    weights = [(f"w{i}", torch.full((size,), float(i))) for i, size in enumerate(sizes)]
    groups = list(buckets(iter(weights), limit))
    assert [name for group in groups for name in group] == [name for name, _ in weights]
    assert all(group[name].equal(dict(weights)[name]) for group in groups for name in group)
    filled = [sum(tensor.nbytes for tensor in group.values()) for group in groups]
    assert all(len(group) == 1 or size <= limit for group, size in zip(groups, filled, strict=True))
    firsts = [next(iter(group.values())).nbytes for group in groups]
    assert all(size + first > limit for size, first in zip(filled, firsts[1:], strict=False)), "a bucket was cut early"


def test_buckets_are_the_callers_to_keep(make_model):
    model = make_model()
    kept = {name: tensor for bucket in buckets(policy_weights(model), 10_000) for name, tensor in bucket.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.pi)
    assert not any((tensor == math.pi).any() for tensor in kept.values())
