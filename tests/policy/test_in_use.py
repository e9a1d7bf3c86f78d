"""Prompts of users whose next item is not known, as they are once a model is in use."""

import torch

from catalog.errors import InputError
from interactions.prompts import PromptBuilder
from samplers import PolicySampler
from tests.raising import raises


def test_rows_without_a_target_are_prompts_as_they_are_in_use(catalog, tokenizer, rows):
    builder = PromptBuilder(catalog, tokenizer, max_history=5)
    known = builder(rows)
    asked = builder([{"history": row["history"]} for row in rows])
    assert asked.given_target is None and asked.columns == {} and len(asked) == 4
    assert torch.equal(asked.input_ids, known.input_ids) and torch.equal(asked.history, known.history)
    assert len(asked.rows(1, 3)) == len(asked.to(torch.device("cpu")).rows(0, 2)) == 2
    with raises(InputError, field="target"):
        _ = asked.target
    with raises(InputError, field="target"):
        builder([rows[0], {"history": [1]}])
    with raises(InputError):
        builder([])


def test_a_policy_draws_and_ranks_for_rows_without_a_target(policy, catalog, tokenizer, rows):
    builder = PromptBuilder(catalog, tokenizer, max_history=5)
    asked = [{"history": row["history"]} for row in rows]
    for sampler, count in ((PolicySampler(policy), 3), (PolicySampler(policy, beams=True), 50)):
        drawn, known = (sampler.sample(builder(some), count, seed=1) for some in (asked, rows))
        mask = drawn.source >= 0
        assert torch.equal(drawn.items[mask], known.items[mask]) and torch.equal(drawn.source, known.source)
    beams = [policy.beam(builder(some), 5)[0] for some in (asked, rows)]
    assert torch.equal(*beams)
