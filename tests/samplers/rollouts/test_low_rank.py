"""Weights that a server merges from what it keeps and from pieces are those that are merged before they are sent."""

import copy

import peft
import pytest
import torch
from torch import nn

from catalog.errors import InputError
from samplers.rollouts.engine import WeightMeta
from samplers.rollouts.low_rank import BASE, VALUES, WHOLE, KeptWeights, is_piece
from samplers.rollouts.weights import PolicySource
from samplers.rollouts.wire import size
from tests.raising import raises
from trainer.runtime.adapters import adapt

LINEAR = ["q_proj", "v_proj", "down_proj"]
CONV1D = ["c_attn", "c_proj", "c_fc"]
TOKENS = torch.tensor([5, 7, 7, 9])


def given(source):
    """What is sent, as it was announced."""
    found = [(name, weight.clone()) for name, weight in source]
    assert [WeightMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in found] == source.metadata()
    at = 0
    for _, weight in found:  # where they lie one behind the other, each can be read
        assert at % weight.itemsize == 0
        at += weight.nbytes
    return found


def same(ours, theirs, atol):
    ours, theirs = dict(ours), dict(theirs)
    assert sorted(ours) == sorted(theirs)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def trained(model, seed):
    """Change what an optimizer would, of embeddings the rows of the codes alone."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                rows = getattr(parameter, "trained_rows", slice(None))
                parameter[rows] += 0.1 * torch.randn_like(parameter[rows])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen3", dict(target_modules=LINEAR)),
        ("qwen3", dict(target_modules=LINEAR, use_rslora=True, rank_pattern={"q_proj": 2})),
        ("gpt2", dict(target_modules=CONV1D, bias="all", tied=True)),
        ("gpt2", dict(target_modules=["wte", "c_attn"])),
        ("qwen3", dict(target_modules=["embed_tokens", "q_proj", "lm_head"])),
        ("qwen3", dict(target_modules=LINEAR, modules_to_save=["embed_tokens", "lm_head", "norm"])),
    ],
)
def test_pieces_are_merged_as_before_sending(kind, settings, with_lora):
    model, kept = with_lora(kind, **settings), KeptWeights(torch.device("cpu"))
    source = PolicySource(model)
    assert source.has_pieces
    kept.load_weights(given(source.pieces(base=True)))
    same(kept, source, 1e-6)
    for seed in range(2):
        trained(model, seed)
        pieces = given(source.pieces(base=False))
        assert all(is_piece(name) for name, _ in pieces)
        kept.load_weights(pieces)
        same(kept, source, 1e-6)
        assert sorted(kept.metadata()) == sorted(source.metadata())


@pytest.mark.parametrize("tied", [True, False])
def test_of_the_embeddings_the_rows_of_the_codes_travel_alone(tied, make_model):
    model = make_model(tie_word_embeddings=tied, vocab_size=5000)
    model = adapt(model, peft.LoraConfig(r=4, target_modules=LINEAR), TOKENS, checkpointing=False)
    kept, source = KeptWeights(torch.device("cpu")), PolicySource(model)
    kept.load_weights(given(source.pieces(base=True)))
    trained(model, 1)
    pieces = given(source.pieces(base=False))
    kept.load_weights(pieces)
    same(kept, source, 1e-6)
    rows = [weight.shape for name, weight in pieces if name.endswith(VALUES)]
    assert rows == [(3, 32)] * (1 if tied else 2) and not any(name.endswith(WHOLE) for name, _ in pieces)
    assert 30 * sum(map(size, source.pieces(base=False).metadata())) < sum(map(size, source.metadata()))


def test_in_bfloat16_what_is_added_is_rounded_once(with_lora):
    model = with_lora(target_modules=LINEAR)
    for name, parameter in model.named_parameters():  # as a pretrained checkpoint has it
        if "lora_" not in name:
            parameter.data = parameter.bfloat16().float()
    source, kept = PolicySource(model, dtype=torch.bfloat16), KeptWeights(torch.device("cpu"))
    kept.load_weights(given(source.pieces(base=True)))
    ours, theirs = dict(kept), dict(source)
    assert {weight.dtype for weight in ours.values()} == {torch.bfloat16}
    for name, weight in theirs.items():
        assert (ours[name] != weight).float().mean() < 1e-3, name  # where float32 itself lies between two of them


def test_adapters_that_are_no_longer_beside_their_weights_are_sent_merged(with_lora, make_model):
    assert not PolicySource(make_model()).has_pieces
    model = with_lora(target_modules=LINEAR, adapters=("default", "second"))
    assert PolicySource(nn.DataParallel(model)).has_pieces
    model.base_model.set_adapter(["default", "second"])
    assert not PolicySource(model).has_pieces
    model.base_model.set_adapter("default")
    with model.disable_adapter():
        assert not PolicySource(model).has_pieces
    model.merge_adapter()
    assert not PolicySource(model).has_pieces


def test_a_server_starts_anew_with_a_base_and_refuses_pieces_without_one(with_lora):
    model, other = with_lora(target_modules=LINEAR), with_lora("gpt2", target_modules=CONV1D)
    kept = KeptWeights(torch.device("cpu"))
    kept.load_weights(given(PolicySource(model).pieces(base=False)))
    with raises(InputError):
        list(kept)
    kept.load_weights(given(PolicySource(copy.deepcopy(other)).pieces(base=True)))
    same(kept, PolicySource(other), 1e-6)
    assert BASE not in dict(kept)
