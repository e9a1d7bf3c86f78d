import numpy as np
import pytest
import torch

from catalog import Catalog, word_tokenizer
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
    assert batch.history.tolist() == [[-1, -1, 2], [0, 1, 2], [-1, 1, 1]]
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


def test_a_tokenizer_of_another_catalogue_is_refused(catalog):
    with pytest.raises(ValueError, match="extend_tokenizer"):
        PromptBuilder(catalog, word_tokenizer((2, 2)), max_history=2)
