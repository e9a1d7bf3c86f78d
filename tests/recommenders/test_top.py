"""A recommender's best items are the best of its probabilities, however they are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recommenders import ALS, BatchRecommender, ItemKNN, Mixture, Popularity, SASRec
from recommenders import top as module
from recommenders.batch import best_items
from recommenders.products import Products
from recommenders.sasrec import Network, SASRecSettings
from recommenders.top import find_top, top_of

ITEMS = 70
RNG = np.random.default_rng(0)
HISTORIES = [RNG.integers(0, ITEMS, n).tolist() for n in (1, 4, 9, 2, 6)]
WITHOUT = [sorted({*row, int(RNG.integers(ITEMS))}) for row in HISTORIES]
TAKEN = csr_matrix((RNG.random((90, ITEMS)) < 0.1).astype(np.float32))
PARTS = {
    "item_knn": ItemKNN.fit(TAKEN, 12, 0.8),
    "popularity": Popularity.fit(TAKEN),
    "als": ALS(torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(1)), 3.0, 0.9, 30.0, 0.1),
    "sasrec": SASRec(Network(ITEMS, SASRecSettings(dimensions=8)), SASRecSettings(dimensions=8), 0.3),
}
TEXTED = Network(ITEMS, SASRecSettings(dimensions=8), torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(2)))
PARTS["sasrec with text"] = SASRec(TEXTED, SASRecSettings(dimensions=8), 0.3)
PARTS["mixture"] = Mixture({name: PARTS[name] for name in ("item_knn", "als")}, {"item_knn": 1.0, "als": 2.0})


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("k", [5, ITEMS])
def test_the_top_is_that_of_all_probabilities(name, k, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(module, "ENTRIES", 2 * ITEMS)  # few rows and few items at once
    model = PARTS[name]
    for without in (None, WITHOUT):
        found, chances = find_top(model, HISTORIES, k, without), model.probabilities(HISTORIES, without)
        expected = chances.topk(k).values
        shown = found.probabilities.where(found.items >= 0, 0.0)
        torch.testing.assert_close(shown, expected, atol=1e-6, rtol=1e-5)
        held = found.items >= 0
        torch.testing.assert_close(chances.gather(1, found.items.clamp(min=0))[held], found.probabilities[held])
        assert all(len(set(row)) == len(row) for row in ([i for i in row if i >= 0] for row in found.items.tolist()))


@pytest.mark.parametrize("name", ["als", "sasrec"])
def test_few_clusters_are_searched_where_probes_say_so(name):
    exact = PARTS[name]
    if name == "als":
        few, all_of_them = (replace(exact, probes=probes) for probes in (1, 100))
    else:
        few, all_of_them = (replace(exact, settings=replace(exact.settings, probes=probes)) for probes in (1, 100))
    expected, found = exact.top(HISTORIES, 5), all_of_them.top(HISTORIES, 5)  # of few items the sample holds all
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.probabilities, expected.probabilities)
    some = few.top(HISTORIES, ITEMS)
    held = some.items >= 0
    assert 0 < held.sum(1).max() < ITEMS  # one cluster of eight
    chances = exact.probabilities(HISTORIES).gather(1, some.items.clamp(min=0))
    torch.testing.assert_close(some.probabilities, chances.where(held, 0.0))


def test_the_probability_of_what_is_found_is_estimated_from_a_sample():
    draw = torch.Generator().manual_seed(0)
    items, users = torch.randn(20_000, 8, generator=draw), 0.4 * torch.randn(6, 8, generator=draw)
    found, expected = Products(items, 40).top(users, 100, 1.0), Products(items, 0).top(users, 100, 1.0)
    assert (found.items == expected.items).float().mean() > 0.9
    torch.testing.assert_close(found.probabilities[:, 0], expected.probabilities[:, 0], rtol=0.05, atol=0)


def test_without_a_neighbor_all_items_are_alike():
    found = PARTS["item_knn"].top([[], [3]], 4)
    assert found.items[0].tolist() == [-1] * 4 and found.rest.tolist() == pytest.approx([1 / ITEMS, 0])
    dense = top_of(PARTS["item_knn"].probabilities([[], [3]]), 4)
    torch.testing.assert_close(dense.rest, found.rest)


def test_the_last_answer_is_kept_and_a_shorter_one_taken_from_it(prompts):
    class Counting(Popularity):
        asked = 0

        def top(self, *given) -> Tensor:
            Counting.asked += 1
            return super().top(*given)

    ask = BatchRecommender(Counting(torch.arange(48.0)))
    long, short = best_items(ask, prompts, 20), best_items(ask, prompts, 5)
    assert Counting.asked == 1 and torch.equal(long.items[:, :5], short.items) and short.items.shape[1] == 5
    best_items(ask, prompts, 30)
    assert Counting.asked == 2
