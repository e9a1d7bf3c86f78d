"""A pretrained checkpoint takes in the catalog's codes: which rows its embeddings gain, and what stays as it was."""

import json
import logging
import sys
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from catalog.errors import SetupError
from catalog.tokens import code_words
from interactions.prompts import PromptBuilder
from policy import CausalPolicy, check_shared_prefix
from policy.loading import load_backbone
from tests.raising import raises

SENTENCES = ["The user bought: a lamp, a chair and then", "As IDs: the next item is a quick brown fox"] * 3
SHAPE = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
TEMPLATE = "The user bought: {titles}\nAs IDs: {history}\nThe next item is"


def pretrained_tokenizer(**special):
    """A byte-level BPE in the manner of GPT-2 and SmolLM."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|end|>", *special.values()],
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", **special)


@pytest.fixture
def save(tmp_path):
    """Saves a small checkpoint; returns its folder and the model."""

    def make(tied=True, spare=0, **special):
        tokenizer = pretrained_tokenizer(**special)
        torch.manual_seed(1)
        config = AutoConfig.for_model("llama", vocab_size=len(tokenizer) + spare, tie_word_embeddings=tied, **SHAPE)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for part in (model.get_input_embeddings(), model.get_output_embeddings()):
                part.weight += 0.1  # a mean that differs from that of a new row
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model"), model

    return make


def rows_of(model):
    return [part.weight.detach() for part in (model.get_input_embeddings(), model.get_output_embeddings())]


@pytest.mark.parametrize("spare", [0, 50, 1000], ids=lambda n: f"{n} spare rows")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_codes_begin_at_the_mean_of_the_words_and_these_stay(save, catalog, tied, spare):
    folder, before = save(tied, spare)
    old = len(AutoTokenizer.from_pretrained(folder))
    model, tokenizer = load_backbone(catalog, folder, None, seed=3)
    words = code_words(catalog.trie.sizes)
    assert tokenizer.convert_tokens_to_ids(words) == list(range(old, old + len(words)))
    assert model.config.vocab_size == len(tokenizer) == old + len(words)
    embeddings, head = rows_of(model)
    assert (embeddings.data_ptr() == head.data_ptr()) == tied
    for now, then in zip((embeddings, head), rows_of(before), strict=True):
        assert now.shape == (len(tokenizer), 32)
        assert torch.equal(now[:old], then[:old])
        torch.testing.assert_close(now[old:], then[:old].mean(0).expand(len(words), -1), atol=1e-4, rtol=0)


def test_every_process_gives_codes_the_same_rows(save, catalog):
    folder, _ = save(tied=False)
    states = []
    for process in range(2):
        torch.manual_seed(100 + process)
        states.append(load_backbone(catalog, folder, None, seed=3)[0].state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_saved_run_is_loaded_as_it_is(save, catalog, tmp_path):
    model, tokenizer = load_backbone(catalog, save()[0], None, seed=3)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "run")
    again, same = load_backbone(catalog, str(tmp_path / "run"), None, seed=4)
    assert len(same) == len(tokenizer) and (same.bos_token, same.pad_token) == ("<|end|>", "<|end|>")
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_a_run_that_began_with_a_new_backbone_is_loaded_as_it_is(catalog, tmp_path):
    described = {"model_type": "llama", **SHAPE}
    model, tokenizer = load_backbone(catalog, None, described, seed=0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, again = load_backbone(catalog, str(tmp_path), None, seed=1)
    assert len(again) == len(tokenizer)
    for (name, own), (_, kept) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
        assert own.equal(kept), name


def test_the_end_of_text_starts_and_pads_where_nothing_else_does(save, catalog, caplog):
    with caplog.at_level(logging.INFO, "policy.loading"):
        _, tokenizer = load_backbone(catalog, save()[0], None, seed=0)
    assert tokenizer.bos_token == tokenizer.pad_token == tokenizer.eos_token == "<|end|>"
    assert [name for name in ("bos_token", "pad_token") if f"no {name}" in caplog.text] == ["bos_token", "pad_token"]


def test_a_start_and_a_padding_of_its_own_are_kept(save, catalog, caplog):
    with caplog.at_level(logging.INFO, "policy.loading"):
        _, tokenizer = load_backbone(catalog, save(bos_token="<|start|>", pad_token="<|pad|>")[0], None, seed=0)
    assert (tokenizer.bos_token, tokenizer.pad_token) == ("<|start|>", "<|pad|>")
    assert "serves as one" not in caplog.text


def test_a_template_is_trained_on_a_pretrained_backbone(save, catalog, rows):
    """Padding, start and end are one token here, and the mask alone tells them apart."""
    model, tokenizer = load_backbone(catalog, save()[0], None, seed=0)
    titled = replace(catalog, titles=tuple(f"lamp {i}" for i in range(48)))
    prompts = PromptBuilder(titled, tokenizer, 5, TEMPLATE)
    policy = CausalPolicy(model, catalog.trie, prompts.tokens)
    batch = prompts(rows)
    assert check_shared_prefix(policy, batch, torch.arange(6).expand(4, -1)) < 1e-4
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(40):
        output = policy.log_probs(batch, batch.target[:, None], history=True)
        loss = -output.log_pf.sum(-1).mean() - output.log_pf_history[batch.history >= 0].sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_gguf_without_its_reader_is_refused(catalog, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with raises(SetupError, field="model", value="gguf"):
        load_backbone(catalog, "a/b.gguf", None, seed=0)


def write_gguf(path, model, tokenizer):
    """A llama as llama.cpp keeps it: weights in float32, the rotary halves of queries and keys interleaved."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    kinds = gguf.TokenType
    control = set(tokenizer.all_special_ids)
    writer.add_token_types([kinds.CONTROL if i in control else kinds.NORMAL for i in range(len(tokenizer))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                value = value.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        if not (name == "lm_head.weight" and config.tie_word_embeddings):
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_gguf_file_gives_the_model_it_was_made_of_and_is_saved_as_any_other(save, catalog, tied, tmp_path):
    folder, model = save(tied)
    write_gguf(tmp_path / "small.gguf", model, AutoTokenizer.from_pretrained(folder))
    expected, plain = load_backbone(catalog, folder, None, seed=3)
    loaded, tokenizer = load_backbone(catalog, str(tmp_path / "small.gguf"), None, seed=3)
    assert len(tokenizer) == len(plain)
    assert tokenizer("the lamp<a_1>", add_special_tokens=False) == plain("the lamp<a_1>", add_special_tokens=False)
    row = torch.arange(20)[None]
    torch.testing.assert_close(loaded(row).logits, expected(row).logits, atol=1e-5, rtol=1e-5)
    for part in (loaded, tokenizer):
        part.save_pretrained(tmp_path / "run")
    again, same = load_backbone(catalog, str(tmp_path / "run"), None, seed=4)
    assert len(same) == len(tokenizer)
    torch.testing.assert_close(again(row).logits, expected(row).logits, atol=1e-5, rtol=1e-5)
