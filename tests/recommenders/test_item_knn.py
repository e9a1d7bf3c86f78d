import warnings

import numpy as np
import pytest
import torch
from scipy import sparse

from recommenders import ItemKNN, Popularity, Recommender, rank

INTERACTIONS = sparse.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]]))
COSINES = np.array([[0, 1, 0.5, 0], [1, 0, 0.5, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]])  # item 3 has no user


def test_fitted_similarities_are_cosines_without_the_item_itself():
    np.testing.assert_allclose(ItemKNN.fit(INTERACTIONS).similarity.toarray(), COSINES, atol=1e-12)


def test_fit_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ItemKNN.fit(INTERACTIONS)


def test_score_sums_similarities_with_a_weight_that_decays_from_the_newest_event():
    model = ItemKNN.fit(INTERACTIONS, decay=0.8)
    scores = model.score([[0, 2], [], [1], [3, 3, 2]])
    expected = [0.8 * COSINES[0] + COSINES[2], np.zeros(4), COSINES[1], COSINES[2]]
    torch.testing.assert_close(scores, torch.tensor(np.array(expected), dtype=torch.float32))


def test_a_repeated_event_counts_each_time():
    scores = ItemKNN.fit(INTERACTIONS, decay=0.5).score([[0, 0]])
    torch.testing.assert_close(scores, torch.tensor(1.5 * COSINES[[0]], dtype=torch.float32))


def test_without_decay_the_order_of_the_history_is_irrelevant():
    scores = ItemKNN.fit(INTERACTIONS).score([[0, 1, 2], [2, 0, 1]])
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_only_the_nearest_neighbors_are_kept(seed):
    similarity = ItemKNN.fit(INTERACTIONS, neighbors=1, seed=seed).similarity.toarray()
    np.testing.assert_allclose(similarity[:2], COSINES[:2] * [1, 1, 0, 0], atol=1e-12)
    assert (similarity > 0).sum(1).max() == 1


def test_which_of_equal_neighbors_is_kept_does_not_depend_on_the_item_number():
    together = sparse.csr_matrix(np.ones((3, 30)))  # every cosine is 1
    kept = [ItemKNN.fit(together, neighbors=5, seed=seed).similarity.nonzero()[1] for seed in range(20)]
    assert abs(np.concatenate(kept).mean() - 14.5) < 1.5
    repeated = ItemKNN.fit(together, neighbors=5, seed=0).similarity.nonzero()[1]
    np.testing.assert_array_equal(kept[0], repeated)


def test_items_that_nobody_took_cost_nothing_and_change_nothing():
    draw = np.random.default_rng(0)
    few = sparse.random(40, 12, 0.3, "csr", rng=draw, data_rvs=np.ones)
    places = np.sort(draw.permutation(5_000_000)[:12])
    wide = sparse.csr_matrix((few.data, places[few.indices], few.indptr), (40, 5_000_000))
    narrow, found = ItemKNN.fit(few, 20), ItemKNN.fit(wide, 20)  # more neighbors than there are items: all are kept
    assert found.cooccurrence.shape == (5_000_000, 5_000_000) and found.cooccurrence.nnz == narrow.cooccurrence.nnz
    torch.testing.assert_close(found.score([places[[3, 5]].tolist()])[:, places], narrow.score([[3, 5]]))


def test_popularity_scores_by_training_count_for_everybody():
    model = Popularity.fit(INTERACTIONS)
    scores = model.score([[0], []])
    torch.testing.assert_close(scores, torch.tensor([[2.0, 2.0, 2.0, 0.0]]).expand(2, -1))


@pytest.mark.parametrize("model", [ItemKNN.fit(INTERACTIONS), Popularity.fit(INTERACTIONS)])
def test_recommenders_share_one_interface(model: Recommender):
    histories = [[0], [1, 2, 3]]
    scores = model.score(histories)
    assert scores.dtype == torch.float32
    assert rank(scores, histories, k=2)[1].tolist() == [0, -1]
