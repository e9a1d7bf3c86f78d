"""Vectors from histories with a planted structure."""

import numpy as np
import pytest

from semantic_ids import interaction_vectors
from semantic_ids.interaction_vectors import cooccurrence_vectors


def test_items_taken_together_lie_together():
    rng = np.random.default_rng(0)
    groups = [rng.permutation(10) + 10 * (user % 3) for user in range(60)]  # every user stays in one of three tens
    vectors = cooccurrence_vectors([group.tolist() for group in groups], 31, dimensions=3)
    np.testing.assert_allclose(np.linalg.norm(vectors[:30], axis=1), 1, rtol=1e-5)
    assert not vectors[30].any()  # the item that nobody took
    cosine = vectors[:30] @ vectors[:30].T
    same = np.arange(30)[:, None] // 10 == np.arange(30) // 10
    assert cosine[same].min() > 0.9 and np.abs(cosine[~same]).max() < 0.1


def test_only_neighbors_inside_the_window_count():
    histories = [[0, 1, 2, 3, 4, 5]] * 5
    near = cooccurrence_vectors(histories, 6, dimensions=3, window=1)
    wide = cooccurrence_vectors(histories, 6, dimensions=3, window=5)
    assert not np.allclose(np.abs(near @ near.T), np.abs(wide @ wide.T), atol=1e-2)


def test_too_many_dimensions_are_named():
    with pytest.raises(ValueError, match="64 dimensions for 6 items"):
        cooccurrence_vectors([[0, 1, 2]], 6)


def test_the_svd_of_large_catalogs_spans_what_the_exact_one_does(monkeypatch):
    rng = np.random.default_rng(0)
    groups = rng.permutation(400).reshape(8, 50)  # a history stays in one of eight groups of items
    histories = [rng.permutation(groups[user % 8])[:20].tolist() for user in range(800)]
    exact = cooccurrence_vectors(histories, 400, dimensions=8)
    monkeypatch.setattr(interaction_vectors, "EXACT_ITEMS", 0)
    random = cooccurrence_vectors(histories, 400, dimensions=8)
    assert np.abs(exact @ exact.T - random @ random.T).max() < 0.02
    assert np.array_equal(random, cooccurrence_vectors(histories, 400, dimensions=8))
