"""Every code is one token, whatever tokenizer it is added to and whatever stands around it."""

import itertools

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from catalog import Trie, extend_tokenizer, node_tokens, word_tokenizer
from catalog.tokens import code_words

SIZES = (3, 2, 12)
SENTENCES = ["The user has bought a lamp, a chair and then", "the quick brown fox jumps over the lazy dog"]


def pretrained(kind):
    """A tokenizer of 300 words, trained here, in the manner of GPT-2, of T5 or of Llama 2."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "t5":
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "<pad>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", pad_token="<pad>")


@pytest.fixture(params=["fresh", "gpt2", "t5", "llama2"])
def with_codes(request):
    if request.param == "fresh":
        return word_tokenizer(SIZES)
    tokenizer = pretrained(request.param)
    extend_tokenizer(tokenizer, SIZES)
    return tokenizer


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_every_code_is_one_token_of_its_own(with_codes):
    encoded = [ids(with_codes, word) for word in code_words(SIZES)]
    assert all(len(row) == 1 for row in encoded)
    assert len({row[0] for row in encoded}) == sum(SIZES)


def test_concatenated_codes_are_their_tokens_and_come_back_as_the_same_text(with_codes):
    words = np.random.default_rng(0).permutation(np.repeat(code_words(SIZES), 3)).tolist()
    tokens = ids(with_codes, "".join(words))
    assert tokens == [ids(with_codes, word)[0] for word in words]
    assert with_codes.decode(tokens) == "".join(words)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "llama2"])
def test_codes_behind_a_text_change_nothing_about_it(kind):
    plain, tokenizer = pretrained(kind), pretrained(kind)
    assert extend_tokenizer(tokenizer, SIZES) == sum(SIZES)
    assert len(tokenizer) == len(plain) + sum(SIZES)
    assert extend_tokenizer(tokenizer, SIZES) == 0
    for text in SENTENCES:
        assert ids(tokenizer, text) == ids(plain, text)
        assert ids(tokenizer, text + "<a_2><b_0><c_11>") == ids(plain, text) + ids(tokenizer, "<a_2><b_0><c_11>")
        assert tokenizer.decode(ids(tokenizer, text + "<a_2><b_0>")) == text + "<a_2><b_0>"


def test_an_extended_tokenizer_keeps_its_codes_when_saved(tmp_path):
    tokenizer = pretrained("llama2")
    extend_tokenizer(tokenizer, SIZES)
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert ids(loaded, "the fox<a_2><b_0><c_11>") == ids(tokenizer, "the fox<a_2><b_0><c_11>")


def test_a_node_has_the_token_of_the_code_that_leads_to_it(with_codes):
    trie = Trie.build(np.array(list(itertools.product(*map(range, SIZES))))[::2], SIZES)
    tokens = node_tokens(with_codes, trie)
    assert tokens.shape == (trie.nodes,) and tokens[0] == 0
    items = torch.arange(trie.items)
    for path, codes in zip(trie.path(items), trie.codes(items).tolist(), strict=True):
        text = "".join(f"<{letter}_{code}>" for letter, code in zip("abc", codes, strict=True))
        assert tokens[path[1:]].tolist() == ids(with_codes, text)


@pytest.mark.parametrize("tokenizer", [pretrained("gpt2"), word_tokenizer((3, 2, 5))], ids=["pretrained", "too small"])
def test_a_tokenizer_without_the_codes_is_refused(tokenizer):
    trie = Trie.build(np.array([[2, 1, 11]]), SIZES)
    with pytest.raises(ValueError, match=r"turns the code <[ac]_\d+> into \[.*\].*extend_tokenizer"):
        node_tokens(tokenizer, trie)


def test_more_levels_than_letters_are_refused():
    assert code_words((1,) * 26)[-1] == "<z_0>"
    with pytest.raises(ValueError, match="27 levels"):
        code_words((1,) * 27)
