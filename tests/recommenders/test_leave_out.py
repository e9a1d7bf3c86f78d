"""A model that counts, without one user: the same as fitted on all the others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recommenders import ItemKNN, Popularity


def counts(seed, most):
    """12 users with 0 to `most` of each of 9 items, as lists and as a matrix."""
    matrix = np.random.default_rng(seed).integers(0, most + 1, (12, 9)) * np.random.default_rng(seed).integers(0, 2, 9)
    matrix *= np.random.default_rng(seed + 1).random((12, 9)) < 0.4
    return [np.repeat(np.arange(9), row).tolist() for row in matrix], matrix.astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=12, max_size=12))
def test_leaving_a_user_out_is_fitting_without_that_user(seed, histories):
    own, matrix = counts(seed, most=3)
    for fit in (lambda m: ItemKNN.fit(m, neighbors=9, decay=0.7), Popularity.fit):
        model = fit(sparse.csr_matrix(matrix))
        for user in range(12):
            others = fit(sparse.csr_matrix(np.delete(matrix, user, 0)))
            expected = others.score([histories[user]])
            torch.testing.assert_close(model.score(histories, own)[[user]], expected)
            torch.testing.assert_close(
                model.probabilities(histories, own)[[user]], others.probabilities([histories[user]])
            )


@pytest.mark.parametrize("fit", [ItemKNN.fit, Popularity.fit])
def test_leaving_nobody_out_is_the_plain_score(fit):
    own, matrix = counts(0, most=2)
    model = fit(sparse.csr_matrix(matrix))
    torch.testing.assert_close(model.score(own, [[]] * 12), model.score(own))


def test_what_only_the_user_did_leaves_no_trace():
    model = ItemKNN.fit(sparse.csr_matrix(np.array([[1, 1, 1, 0], [0, 0, 1, 1]])), neighbors=4)
    assert model.score([[0]])[0, 1] > 0
    torch.testing.assert_close(model.score([[0]], [[0, 1, 2]]), torch.zeros(1, 4))
    torch.testing.assert_close(model.probabilities([[0]], [[0, 1, 2]]), torch.full((1, 4), 0.25))
    torch.testing.assert_close(model.score([[2]], [[0, 1, 2]]), torch.tensor([[0.0, 0.0, 0.0, 1.0]]))


def test_repeated_interactions_count_once_for_similarity():
    once, often = np.array([[1, 1, 0], [0, 1, 1]]), np.array([[3, 1, 0], [0, 2, 5]])
    expected = ItemKNN.fit(sparse.csr_matrix(once)).similarity.toarray()
    np.testing.assert_allclose(ItemKNN.fit(sparse.csr_matrix(often)).similarity.toarray(), expected)
