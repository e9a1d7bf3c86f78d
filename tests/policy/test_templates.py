"""Prompts with text in them: the codes of the history are found, and the text around them counts."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from catalog import extend_tokenizer, node_tokens
from interactions.prompts import PromptBuilder
from policy import CausalPolicy, check_shared_prefix

TEMPLATES = ["Got: {titles}.\nIDs: {history}\nNext: ", "{titles}{history}", "IDs {history}", "{history} then"]


@pytest.fixture
def tokenizer(catalog):
    """A token for every byte, and the codes."""
    words = ["<pad>", "<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>")
    extend_tokenizer(tokenizer, catalog.trie.sizes)
    return tokenizer


@pytest.fixture
def build(catalog, tokenizer, request):
    titled = replace(catalog, titles=tuple("abcdefg"[: i % 7] for i in range(48)))  # of 0 to 6 letters
    return PromptBuilder(titled, tokenizer, 5, request.param)


@pytest.fixture
def policy(catalog, tokenizer, make_model):
    model = make_model("llama", vocab_size=len(tokenizer), max_position_embeddings=256)
    return CausalPolicy(model, catalog.trie, node_tokens(tokenizer, catalog.trie))


def item_log_probs(policy, before, item):
    """log P_F of each code of an item [L] behind the tokens `before`, from one plain row, softmax by softmax."""
    path = policy.trie.path(torch.tensor(item)).tolist()
    row = [*before, *policy.tokens[path[1:]].tolist()]
    logits = policy.model(input_ids=torch.tensor([row])).logits[0]
    steps = []
    for level, (node, child) in enumerate(zip(path[:-1], path[1:], strict=True)):
        first, end = policy.trie.first_child[node : node + 2].tolist()
        log_p = logits[len(before) - 1 + level, policy.tokens[first:end]].log_softmax(-1)
        steps.append(log_p[child - first])
    return torch.stack(steps)


@pytest.mark.parametrize("build", TEMPLATES, indirect=True)
def test_each_item_of_the_history_is_predicted_from_the_text_and_the_items_before_it(build, policy, rows):
    prompts = build(rows)
    items = torch.randint(48, (4, 3), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        output = policy.log_probs(prompts, items, history=True)
        for row, mask in enumerate(prompts.attention_mask.bool()):
            whole = prompts.input_ids[row, mask].tolist()
            for column, item in enumerate(items[row].tolist()):
                torch.testing.assert_close(
                    output.log_pf[row, column], item_log_probs(policy, whole, item), atol=1e-5, rtol=1e-5
                )
            history = rows[row]["history"][-5:]
            text = len(whole) - prompts.after - len(history) * policy.trie.levels  # the start token and the text
            for place, item in enumerate(history):
                before = whole[: text + place * policy.trie.levels]
                torch.testing.assert_close(
                    output.log_pf_history[row, place - len(history)],
                    item_log_probs(policy, before, item),
                    atol=1e-5,
                    rtol=1e-5,
                )


@pytest.mark.parametrize("build", TEMPLATES, indirect=True)
def test_a_template_changes_nothing_about_how_forwards_agree(build, policy, rows):
    prompts = build(rows)
    every = torch.arange(48).expand(4, -1)
    exact = policy.naive_log_probs(prompts, every).sum(-1)
    assert check_shared_prefix(policy, prompts, every) < 1e-4
    torch.testing.assert_close(policy.distribution(prompts), exact, atol=1e-5, rtol=1e-5)
    items, log_pf = policy.sample(prompts, 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_pf.sum(-1), exact.gather(1, items), atol=1e-5, rtol=1e-5)
    assert torch.equal(policy.beam(prompts, 48)[0], exact.argsort(descending=True))


@pytest.mark.parametrize("build", TEMPLATES, indirect=True)
@pytest.mark.parametrize(("count", "history"), [(1, True), (3, True), (1, False), (3, False)])
def test_logits_are_asked_for_where_codes_follow_and_nowhere_else(build, policy, rows, count, history, monkeypatch):
    asked, forward = [], policy.model.forward

    def watched(**inputs):
        output = forward(**inputs)
        asked.append((inputs["input_ids"], inputs["logits_to_keep"], output.logits.shape[1]))
        return output

    monkeypatch.setattr(policy.model, "forward", watched)
    prompts, levels = build(rows), policy.trie.levels
    policy.log_probs(prompts, torch.zeros(4, count, dtype=torch.long), history=history)
    ((tokens, columns, wide),) = asked
    columns = columns.sort().values  # they come level by level
    of_history = prompts.history.shape[1] * levels if history else 0
    assert wide == len(columns) == of_history + 1 + count * (levels - 1)
    longest = (prompts.history >= 0).all(1).nonzero()[0]  # a row of nothing but items
    codes = policy.tokens[policy.trie.path(prompts.history[longest])[..., 1:]].flatten()
    assert torch.equal(tokens[longest, columns[:of_history] + 1].flatten(), codes[:of_history])
    assert columns[of_history:].tolist() == list(range(prompts.input_ids.shape[1] - 1, tokens.shape[1]))
