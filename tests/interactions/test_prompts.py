from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from catalog import Catalog, extend_tokenizer, word_tokenizer
from interactions.prompts import PromptBuilder

CODES = np.array([[0, 0], [0, 1], [1, 2]])


@pytest.fixture
def catalog():
    return Catalog.from_codes(["p", "q", "r"], CODES)


@pytest.fixture
def tokenizer():
    """<pad> 0, <s> 1, </s> 2, <unk> 3, <a_0> 4, <a_1> 5, <b_0> 6, <b_1> 7, <b_2> 8."""
    return word_tokenizer((2, 3))


def test_a_prompt_is_a_start_token_and_the_codes_of_the_history_padded_on_the_left(catalog, tokenizer):
    batch = PromptBuilder(catalog, tokenizer, max_history=9)(
        [{"history": [2], "target": 0}, {"history": [0, 1, 2], "target": 1}, {"history": [1, 1], "target": 2}]
    )
    assert batch.input_ids.tolist() == [[0, 0, 0, 0, 1, 5, 8], [1, 4, 6, 4, 7, 5, 8], [0, 0, 1, 4, 7, 4, 7]]
    assert batch.attention_mask.tolist() == [[0, 0, 0, 0, 1, 1, 1], [1] * 7, [0, 0, 1, 1, 1, 1, 1]]
    assert batch.token_lists() == [[1, 5, 8], [1, 4, 6, 4, 7, 5, 8], [1, 4, 7, 4, 7]]
    assert batch.history.tolist() == [[-1, -1, 2], [0, 1, 2], [-1, 1, 1]]
    assert batch.item_lists() == [[2], [0, 1, 2], [1, 1]]
    assert batch.target.tolist() == [0, 1, 2]
    assert len(batch) == 3 and batch.columns == {}


def test_a_prompt_is_the_text_of_its_codes(catalog, tokenizer):
    batch = PromptBuilder(catalog, tokenizer, max_history=9)([{"history": [0, 2], "target": 1}])
    assert tokenizer.decode(batch.input_ids[0]) == "<s><a_0><b_0><a_1><b_2>"


def test_only_the_newest_items_are_read(catalog, tokenizer):
    build = PromptBuilder(catalog, tokenizer, max_history=2)
    batch = build([{"history": [0, 1, 1, 2], "target": 0}, {"history": [0], "target": 0}])
    assert batch.history.tolist() == [[1, 2], [-1, 0]]
    assert torch.equal(batch.input_ids[:1], build([{"history": [1, 2], "target": 0}]).input_ids)


def test_columns_of_the_rows_stay_beside_the_prompts(catalog, tokenizer):
    rows = [
        {"user": "u1", "history": [0], "rating": 4.5, "target": 1},
        {"user": "u2", "history": [2], "rating": None, "target": 0},
    ]
    batch = PromptBuilder(catalog, tokenizer, max_history=2)(rows).to(torch.device("cpu"))
    assert batch.columns == {"user": ["u1", "u2"], "rating": [4.5, None]}


def test_a_user_without_a_past_is_named(catalog, tokenizer):
    rows = [{"user": "u1", "history": [0], "target": 1}, {"user": "u2", "history": [], "target": 0}]
    with pytest.raises(ValueError, match="User 'u2' has an empty history. Drop"):
        PromptBuilder(catalog, tokenizer, max_history=2)(rows)


@pytest.mark.parametrize("token", ["bos_token", "pad_token"])
def test_a_tokenizer_without_start_or_padding_is_refused(token, catalog, tokenizer):
    setattr(tokenizer, token, None)
    with pytest.raises(ValueError, match="needs a bos_token and a pad_token"):
        PromptBuilder(catalog, tokenizer, max_history=2)


def test_a_prompt_of_no_items_is_refused(catalog, tokenizer):
    with pytest.raises(ValueError, match="max_history=0"):
        PromptBuilder(catalog, tokenizer, max_history=0)


def test_a_tokenizer_of_another_catalog_is_refused(catalog):
    with pytest.raises(ValueError, match="extend_tokenizer"):
        PromptBuilder(catalog, word_tokenizer((2, 2)), max_history=2)


TITLED = Catalog.from_codes(["p", "q", "r"], CODES, titles=["Up", "Alien", "Das Boot, 1981 – Director's Cut"])


def byte_tokenizer():
    """A token for every byte, and the codes: how text is cut into pieces changes nothing about its tokens."""
    words = ["<pad>", "<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>")
    extend_tokenizer(tokenizer, (2, 3))
    return tokenizer


BYTES = byte_tokenizer()


def ids(text):
    return BYTES(text, add_special_tokens=False)["input_ids"]


text = st.text(st.characters(blacklist_characters="{}<>", codec="utf-8"), max_size=12)
histories = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5)


@settings(deadline=None)
@given(st.tuples(text, text, text), st.booleans(), histories)
def test_a_template_stands_around_the_codes_and_these_at_fixed_places_from_the_end(around, titles, histories):
    before, between, after = around
    template = f"{before}{{titles}}{between}{{history}}{after}" if titles else f"{before}{between}{{history}}{after}"
    build = PromptBuilder(TITLED, BYTES, 4, template)
    batch = build([{"history": history, "target": 0} for history in histories])
    end = batch.input_ids.shape[1] - batch.after
    for row, history in enumerate(histories):
        items = history[-4:]
        codes = ids("".join("<a_{}><b_{}>".format(*CODES[item]) for item in items))
        assert batch.input_ids[row, end - len(codes) : end].tolist() == codes
        assert batch.history[row].tolist()[-len(items) :] == items
        named = ", ".join(TITLED.titles[item] for item in items) if titles else ""
        whole = [BYTES.bos_token_id, *ids(before + named + between), *codes, *ids(after)]
        mask = batch.attention_mask[row].bool()
        assert batch.input_ids[row, mask].tolist() == whole and len(whole) <= build.longest
        assert mask.tolist() == sorted(mask.tolist())  # all padding is on the left
        assert (batch.input_ids[row, ~mask] == BYTES.pad_token_id).all()
    assert torch.equal(batch.rows(0, 1).input_ids, batch.input_ids[:1])
    assert batch.rows(0, 1).to(torch.device("cpu")).after == batch.after == len(ids(after))


def test_the_longest_prompt_is_that_of_the_longest_title_again_and_again():
    build = PromptBuilder(TITLED, BYTES, 4, "Bought: {titles}\nAs IDs: {history}\nNext: ")
    length = build([{"history": [2] * 9, "target": 0}]).input_ids.shape[1]
    assert length <= build.longest <= length + len(", ")  # the first title has no comma before it


@pytest.mark.parametrize("rows", [[[0]], [[2], [0, 1, 2], [1, 1]]])
def test_an_empty_template_is_none(rows):
    rows = [{"history": history, "target": 0} for history in rows]
    with_text, plain = PromptBuilder(TITLED, BYTES, 2, "{history}"), PromptBuilder(TITLED, BYTES, 2)
    assert with_text.longest == plain.longest == 5
    for name in ("input_ids", "attention_mask", "history"):
        assert torch.equal(getattr(with_text(rows), name), getattr(plain(rows), name))
    assert plain(rows).after == 0


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "must have {history} once"),
        ("The user bought: {titles}", "must have {history} once"),
        ("{history} and {history}", "must have {history} once"),
        ("{titles}{titles}{history}", "may have {titles} once"),
        ("{history}: {titles}", "has {titles} behind {history}. Put it before"),
        ("{user} bought {history}", "has {user}, but only {titles} and {history} are filled in"),
        ("{} bought {history}", "has {}, but only"),
    ],
)
def test_templates_that_cannot_be_filled_in_are_refused(template, message):
    with pytest.raises(ValueError) as error:
        PromptBuilder(TITLED, BYTES, 2, template)
    assert f"prompt_template={template!r}" in str(error.value) and message in str(error.value)


def test_titles_that_the_catalog_lacks_are_refused():
    with pytest.raises(ValueError, match="prompt_template has {titles} but the catalog has none. Prepare"):
        PromptBuilder(replace(TITLED, titles=()), BYTES, 2, "{titles}: {history}")


def test_titles_are_tokens_when_they_are_met_and_none_is_longer_than_the_longest_measured(monkeypatch):
    template = "Bought: {titles}; {history}"
    rows = [{"history": history, "target": 0} for history in ([2, 0], [1], [0, 1, 2], [2, 2])]
    whole = PromptBuilder(TITLED, BYTES, 4, template)
    monkeypatch.setattr("interactions.prompts.MEASURED_TITLES", 1)
    monkeypatch.setattr("interactions.prompts.KEPT_TITLES", 2)
    some = PromptBuilder(TITLED, BYTES, 4, template)
    assert some.longest == whole.longest
    for row in rows * 2:  # kept and forgotten in turn
        assert torch.equal(some([row]).input_ids, whole([row]).input_ids)
    many_bytes = replace(TITLED, titles=["ÄÖÜ", "a" * 7, ""])
    assert PromptBuilder(many_bytes, BYTES, 1, template).longest == len(ids("Bought: , (no title); ")) + 1 + 2
