from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from catalog import PADDING, SOURCES
from samplers import InteractionsSampler

LATER = [[40], [], [41, 42, 41], [3, 44]]


def others(prompts, later=((), (), (), ())):
    rows = zip(prompts.history.tolist(), later, prompts.target.tolist(), strict=True)
    return [{*history, *more} - {-1, target} for history, more, target in rows]


def drawn_rows(drawn):
    mask = drawn.source != PADDING
    return [set(items[mask].tolist()) for items, mask in zip(drawn.items, mask, strict=True)]


def test_a_large_count_gives_each_other_item_of_the_row_once_and_pads(catalog, prompts):
    batch = replace(prompts, columns={**prompts.columns, "future_items": LATER})
    for given, expected in ((batch, others(prompts, LATER)), (prompts, others(prompts))):
        drawn = InteractionsSampler(catalog.trie).sample(given, 12, seed=0)
        assert drawn_rows(drawn) == expected
        mask = drawn.source == SOURCES.index("interactions")
        assert mask.sum(1).tolist() == list(map(len, expected))
        assert (drawn.source[~mask] == PADDING).all() and drawn.log_pf.isnan().all()
        assert torch.equal(drawn.items[~mask], prompts.target.unsqueeze(1).expand(-1, 12)[~mask])
        assert torch.equal(drawn.codes, catalog.trie.codes(drawn.items))


def test_draws_are_uniform_over_the_distinct_others(catalog, prompts):
    batch = replace(prompts, columns={"future_items": LATER})
    seen = [Counter() for _ in range(4)]
    sampler = InteractionsSampler(catalog.trie)
    for seed in range(2000):
        for counter, row in zip(seen, drawn_rows(sampler.sample(batch, 1, seed)), strict=True):
            counter.update(row)
    for counter, expected in zip(seen, others(prompts, LATER), strict=True):
        assert set(counter) == expected
        mean = 2000 / len(expected)
        assert all(abs(count - mean) < 5 * np.sqrt(mean) for count in counter.values())


def test_the_twin_of_the_target_is_no_other_trajectory(shared_ids, shared_prompts):
    """5 is taken next and 4 has its semantic ID; of the twins 0 and 1 only one is drawn, whichever the row holds."""
    batch = replace(shared_prompts, columns={"future_items": [[1, 10], [2, 3, 8]]})
    rows = drawn_rows(InteractionsSampler(shared_ids.trie).sample(batch, 6, seed=0))
    assert rows[0] in ({0, 7, 10}, {1, 7, 10}) and rows[1] in ({8}, {9})
