"""The trie as a logits processor: what is legal, and both of vLLM's interfaces to it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog, node_tokens, word_tokenizer
from catalog.errors import InputError
from tests.raising import raises

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

SIZES = (3, 4, 5)
END = 2  # of word_tokenizer


def constraint(codes):
    from samplers.rollouts.constraint import TrieConstraint

    codes = np.unique(np.array(codes), axis=0)
    trie = Catalog.from_codes([str(i) for i in range(len(codes))], codes, sizes=SIZES).trie
    tokenizer = word_tokenizer(SIZES)
    return TrieConstraint(trie, node_tokens(tokenizer, trie), len(tokenizer), END)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1, max_size=40),
    st.lists(st.lists(st.integers(0, 15), max_size=3), min_size=1, max_size=20),
)
def test_exactly_the_tokens_that_continue_an_item_stay(codes, prefixes):
    one = constraint(codes)
    items = {tuple(path) for path in one.tokens[one.trie.path(torch.arange(one.trie.items))[:, 1:]].tolist()}
    prefixes = prefixes + [list(item[:n]) for item in list(items)[:3] for n in range(4)]
    logits = torch.randn(len(prefixes), 16)
    taken = torch.tensor([prefix + [-1] * (3 - len(prefix)) for prefix in prefixes])
    masked = one.apply(logits.clone(), taken)
    for row, prefix in enumerate(prefixes):
        n = len(prefix)
        legal = {item[n] for item in items if list(item[:n]) == prefix and n < 3} or {END}
        assert set(masked[row].isfinite().nonzero().flatten().tolist()) == legal
        assert torch.equal(masked[row][list(legal)], logits[row][list(legal)])


def config_of(folder, tokenizer, **about):
    """What a processor reads of vLLM's config. about: the model's own config."""
    model = {"tokenizer": str(folder), "get_vocab_size": lambda: len(tokenizer), "hf_config": SimpleNamespace(**about)}
    return SimpleNamespace(additional_config={"trie": str(folder)}, model_config=SimpleNamespace(**model))


def test_an_engine_without_its_catalog_is_refused(catalog, tokenizer, tmp_path):
    from samplers.rollouts.constraint import TrieConstraint

    catalog.save(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    device = torch.device("cpu")
    fitting = config_of(tmp_path, tokenizer, catalog_fingerprint=catalog.fingerprint)
    assert TrieConstraint.from_config(fitting, device).trie.items == len(catalog)
    with raises(InputError):
        TrieConstraint.from_config(config_of(tmp_path, tokenizer, catalog_fingerprint="another"), device)
    for without in ({}, None):
        fitting.additional_config = without
        with raises(InputError, field="trie"):
            TrieConstraint.from_config(fitting, device)


def test_both_interfaces_mask_alike(catalog, tokenizer, tmp_path, monkeypatch):
    """V2's processor is given the runner's buffers as they are documented; v2_runner.py has it in a running engine."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
    from vllm.v1.worker.cpu.buffer_utils import UvaBuffer

    from samplers.rollouts.constraint import TrieLogitsProcessor, TrieLogitsProcessorV2

    monkeypatch.setattr("vllm.v1.worker.gpu.buffer_utils.UvaBuffer", UvaBuffer)  # as vLLM's runner does on a CPU
    catalog.save(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = config_of(tmp_path, tokenizer)
    tokens = node_tokens(tokenizer, catalog.trie)[catalog.trie.path(torch.arange(48))[:, 1:]].tolist()
    # prompt, how much of it belongs to the item (None: no constraint), what was drawn since
    requests = [
        ([1, 5, 6], 0, []),
        ([1, *tokens[9][:2]], 2, tokens[9][2:3]),
        ([1, 7], None, [4, 4]),
        ([1, 5], 0, tokens[30][:3]),
        ([1, *tokens[3][:1]], 1, []),
    ]
    params = [SamplingParams(extra_args=None if n is None else {"trie": n}) for _, n, _ in requests]
    logits = torch.randn(len(requests), len(tokenizer))

    first = TrieLogitsProcessor(config, torch.device("cpu"), False)
    outputs = [list(output) for _, _, output in requests]
    added = [(row, params[row], requests[row][0], outputs[row]) for row in range(5)]
    first.update_state(BatchUpdate(5, removed=[], added=added, moved=[]))
    expected = first.apply(logits.clone())
    assert torch.equal(expected[2], logits[2]) and not expected[0].isfinite().all()

    begun = TrieLogitsProcessor(config, torch.device("cpu"), False)  # no row has a token yet
    begun.update_state(BatchUpdate(2, [], [(0, params[0], requests[0][0], []), (1, params[2], [1], [])], []))
    assert torch.equal(begun.apply(logits[[0, 2]].clone()), expected[[0, 2]])

    # the same requests in other rows: 1 and 3 change places, 4 goes to 5
    first.update_state(
        BatchUpdate(6, [], [], [(1, 3, MoveDirectionality.SWAP), (4, 5, MoveDirectionality.UNIDIRECTIONAL)])
    )
    order = [0, 3, 2, 1, 2, 4]  # row 4 is free: whatever is there stays
    moved = first.apply(logits[order].clone())
    assert torch.equal(moved[[0, 1, 2, 3, 5]], expected[[0, 3, 2, 1, 4]]) and torch.equal(moved[4], logits[2])

    slots = torch.tensor([4, 0, 3, 1, 6])
    ids, prompt_len = torch.zeros(8, 16, dtype=torch.int32), torch.zeros(8, dtype=torch.int32)
    length = torch.tensor([len(prompt) + len(output) for prompt, _, output in requests])
    for slot, (prompt, _, output) in zip(slots.tolist(), requests, strict=True):
        ids[slot, : len(prompt) + len(output)] = torch.tensor(prompt + output)
        ids[slot, len(prompt) + len(output) :] = 7  # of whoever had the slot before
        prompt_len[slot] = len(prompt)
    buffers = {"all_token_ids": SimpleNamespace(gpu=ids), "prompt_len": SimpleNamespace(gpu=prompt_len)}
    states = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=8, **buffers)
    second = TrieLogitsProcessorV2(config, states)
    taken_up = [second.add_request(slot, param) for slot, param in zip(slots.tolist(), params, strict=True)]
    assert taken_up == [True, True, False, True, True]
    second.apply_staged_writes()  # as the runner does before each forward
    context = SimpleNamespace(expanded_idx_mapping=slots.int(), pos=length - 1)
    assert torch.equal(second.apply(logits.clone(), context), expected)
