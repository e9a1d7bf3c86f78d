from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from recommenders import BatchRecommender, ItemKNN, Mixture, Popularity

MATRIX = sparse.csr_matrix((np.random.default_rng(0).random((20, 48)) < 0.2).astype(np.float32))
OWN = [row.indices.tolist() for row in MATRIX[:4]]
PARTS = {"popularity": Popularity.fit(MATRIX), "item_knn": ItemKNN.fit(MATRIX, decay=0.8)}
HISTORIES = [[0, 5, 3], [7], []]


@pytest.mark.parametrize("name", PARTS)
def test_a_mixture_of_one_is_that_one(name):
    mixture = Mixture({name: PARTS[name]}, {name: 0.3})
    torch.testing.assert_close(mixture.probabilities(HISTORIES), PARTS[name].probabilities(HISTORIES))
    torch.testing.assert_close(mixture.score(HISTORIES), PARTS[name].probabilities(HISTORIES))


def test_weights_are_shares():
    popularity, knn = (part.probabilities(HISTORIES) for part in PARTS.values())
    mixed = Mixture(PARTS, {"popularity": 1, "item_knn": 3}).probabilities(HISTORIES)
    torch.testing.assert_close(mixed, 0.25 * popularity + 0.75 * knn)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(3))


def test_a_mixture_leaves_out_what_its_parts_leave_out():
    popularity, knn = (part.probabilities(HISTORIES, OWN[:3]) for part in PARTS.values())
    mixed = Mixture(PARTS, {"popularity": 1, "item_knn": 1}).probabilities(HISTORIES, OWN[:3])
    torch.testing.assert_close(mixed, (popularity + knn) / 2)


@pytest.mark.parametrize(
    "weights", [{"popularity": 1}, {"popularity": 0, "item_knn": 0}, {"popularity": -1, "item_knn": 2}, {}]
)
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ValueError, match="Give each part one weight >= 0, and one of them a positive weight"):
        Mixture(PARTS, weights)


def test_the_recommender_reads_the_histories_of_the_batch(prompts, rows):
    recommender = BatchRecommender(PARTS["item_knn"])
    expected = PARTS["item_knn"].probabilities([row["history"][-5:] for row in rows])
    torch.testing.assert_close(recommender(prompts), expected)


def test_the_recommender_leaves_the_user_s_own_sequence_out(prompts, rows):
    taught = BatchRecommender(PARTS["item_knn"])(replace(prompts, user_items=OWN))
    torch.testing.assert_close(taught, PARTS["item_knn"].probabilities([row["history"][-5:] for row in rows], OWN))
    assert (taught - BatchRecommender(PARTS["item_knn"])(prompts)).abs().max() > 1e-3


def test_the_recommender_is_asked_once_for_a_batch_and_again_for_the_next(prompts):
    asked = []

    class Counting(Popularity):
        def probabilities(self, histories, without=None):
            asked.append(len(histories))
            return super().probabilities(histories, without)

    recommender = BatchRecommender(Counting(PARTS["popularity"].counts))
    first = recommender(prompts)
    assert recommender(prompts) is first and asked == [4]
    assert recommender(prompts.copy()) is first and asked == [4]  # as a reward and samplers get it
    recommender(prompts.rows(0, 2))
    recommender(replace(prompts, user_items=OWN))
    recommender(prompts)
    assert asked == [4, 2, 4, 4]
