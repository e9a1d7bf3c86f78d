"""Log-probabilities from the codes' rows of a head are those from its whole vocabulary, and so are the gradients."""

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from catalog import node_tokens
from policy import PathLogProbs, policy_of
from policy.base import compute_dtype
from policy.head import plain_heads
from tests.conftest import SMALL
from trainer.runtime.adapters import adapt

MODELS: dict[str, dict] = {
    "tied": {"kind": "qwen3", "tie_word_embeddings": True},
    "untied": {"kind": "qwen3", "tie_word_embeddings": False},
    "gpt2": {"kind": "gpt2"},
    "t5": {"kind": "t5"},
    "scaled": {"kind": "granite", "logits_scaling": 3.0},
    "capped": {"kind": "gemma2", "final_logit_softcapping": 2.0, "head_dim": 8},
}


@pytest.fixture(params=MODELS)
def model(request, make_model, monkeypatch) -> PreTrainedModel:
    for kind in ("granite", "gemma2"):
        monkeypatch.setitem(SMALL, kind, SMALL["llama"])
    return make_model(**MODELS[request.param])


@pytest.fixture
def see(catalog, tokenizer, prompts, monkeypatch):
    """(log-probabilities, the gradient of every weight) of a model from the codes' rows, or its whole vocabulary."""

    def forward(model: nn.Module, whole: bool, *, full_vocabulary: bool) -> tuple[PathLogProbs, list[Tensor]]:
        policy = policy_of(model, catalog.trie, node_tokens(tokenizer, catalog.trie), full_vocabulary=full_vocabulary)
        items = torch.randint(48, (4, 6), generator=torch.Generator().manual_seed(2))
        encoder = type(policy).__name__ == "EncoderDecoderPolicy"
        model.zero_grad()
        with monkeypatch.context() as patch:
            if whole:
                patch.setattr("policy.head._is_plain", lambda head: False)
            found = policy.log_probs(prompts, items, history=not encoder, children=True)
        loss = (found.log_pf * torch.linspace(-1, 1, 6).unsqueeze(-1)).sum() + found.states.square().mean()
        if not encoder:
            loss = loss + found.log_pf_history[prompts.history >= 0].sum()
        loss.backward()
        return found, [p.grad.clone() for p in model.parameters() if p.requires_grad and p.grad is not None]

    return forward


def same(ours: tuple[PathLogProbs, list[Tensor]], theirs: tuple[PathLogProbs, list[Tensor]], atol: float) -> None:
    for name, value in vars(theirs[0]).items():
        if value is not None:
            torch.testing.assert_close(getattr(ours[0], name), value, atol=atol, rtol=atol, msg=name)
    assert len(ours[1]) == len(theirs[1])
    for mine, whole in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, whole, atol=10 * atol, rtol=10 * atol)


@pytest.mark.parametrize("full_vocabulary", [False, True])
def test_the_codes_rows_give_what_the_whole_vocabulary_gives(model, see, full_vocabulary, monkeypatch):
    monkeypatch.setattr("policy.head.CHUNK", 500)  # several chunks
    ours, theirs = (see(model, whole, full_vocabulary=full_vocabulary) for whole in (False, True))
    same(ours, theirs, 1e-5)
    assert "forward" not in vars(model.get_output_embeddings())


def test_a_bias_and_the_copies_of_an_adapter_count(make_model, see, catalog, tokenizer):
    model = make_model(tie_word_embeddings=False)
    model.lm_head = nn.Linear(32, len(tokenizer))
    same(*(see(model, whole, full_vocabulary=False) for whole in (False, True)), 1e-5)
    adapted = adapt(
        make_model(),
        LoraConfig(r=2, target_modules=["q_proj"]),
        node_tokens(tokenizer, catalog.trie)[1:],
        checkpointing=False,
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert len(plain_heads(adapted.get_output_embeddings(), adapted.config, normalized=False)) == 2
    for full_vocabulary in (False, True):
        same(*(see(adapted, whole, full_vocabulary=full_vocabulary) for whole in (False, True)), 1e-5)


def test_only_the_codes_logits_are_computed_and_other_heads_are_left_alone(make_model, catalog, tokenizer, prompts):
    class Other(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) / 2

    model, items = make_model(), torch.arange(8).expand(4, -1)
    policy, wide = policy_of(model, catalog.trie, node_tokens(tokenizer, catalog.trie)), []
    model.register_forward_hook(lambda *given: wide.append(given[-1].logits.shape[-1]))
    policy.log_probs(prompts, items)
    model.lm_head = Other(32, len(tokenizer), bias=False)
    halved = policy.log_probs(prompts, items)
    assert wide == [max(catalog.trie.sizes), len(tokenizer)]
    torch.testing.assert_close(halved.log_pf, policy.naive_log_probs(prompts, items), atol=1e-5, rtol=1e-5)


def test_a_half_precision_model_has_log_probabilities_in_float32(make_model, catalog, tokenizer, prompts):
    model, items = make_model().bfloat16(), torch.arange(8).expand(4, -1)
    policy = policy_of(model, catalog.trie, node_tokens(tokenizer, catalog.trie))
    found = policy.log_probs(prompts, items)
    assert found.states.dtype == compute_dtype(model) == torch.bfloat16
    logits = found.states[:, :, 0].float() @ model.lm_head.weight.float().T  # at the root
    child = catalog.trie.children(torch.tensor(0))
    expected = logits[..., policy.tokens[child]].log_softmax(-1)  # [B, K, C]
    first = catalog.trie.path(items)[..., 1] - child[0]
    torch.testing.assert_close(found.log_pf[..., 0], expected.gather(-1, first.unsqueeze(-1)).squeeze(-1))
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(make_model()) == torch.bfloat16
        assert (
            policy_of(make_model(), catalog.trie, policy.tokens).log_probs(prompts, items).log_pf.dtype == torch.float32
        )
