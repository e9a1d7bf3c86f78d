import itertools
from functools import partial

import numpy as np
import pytest
import torch

from semantic_ids import residual_kmeans, rq_vae


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_of_clusters_are_recovered(seed):
    """Near the numbers 000 to 111 on a line each level can only be one digit, the first before the second and third."""
    rng = np.random.default_rng(seed)
    digits = rng.permutation(np.repeat(list(itertools.product([0, 1], repeat=3)), 5, axis=0))
    place = digits @ [100.0, 10.0, 1.0] + rng.normal(0, 0.01, len(digits))
    vectors = np.outer(place, [0.5, 1.0, -2.0, 0.1])
    codes = residual_kmeans(vectors, (2, 2, 2), seed=seed).codes
    for level in range(3):  # which of the two clusters is called 0 is free
        assert codes[:, level].tolist() in (digits[:, level].tolist(), (1 - digits[:, level]).tolist())


def test_as_many_clusters_as_items_give_every_item_its_own_code():
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    assert sorted(residual_kmeans(vectors, (30,)).codes[:, 0]) == list(range(30))


def test_each_level_leaves_less_over():
    """What a prefix of levels leaves over, measured as the variance inside the groups of items that share it."""
    vectors = np.random.default_rng(0).normal(size=(400, 8))
    codes, residual, _ = residual_kmeans(vectors, (8, 8, 8))
    assert codes.dtype == np.int64 and codes.min() == 0 and codes.max() == 7
    left = [1.0]
    for levels in (1, 2, 3):
        _, group = np.unique(codes[:, :levels], axis=0, return_inverse=True)
        center = np.stack([vectors[group == g].mean(0) for g in range(group.max() + 1)])
        left.append(float(((vectors - center[group]) ** 2).sum() / (vectors**2).sum()))
    assert all(after < 0.85 * before for before, after in itertools.pairwise(left))
    assert left[-1] <= residual < left[1]  # the centroids of a level are shared by all of its prefixes


def test_an_rq_vae_tells_planted_clusters_apart():
    rng = np.random.default_rng(0)
    center = np.repeat(rng.normal(size=(16, 24)), 20, axis=0)
    codes, residual, _ = rq_vae(center + rng.normal(0, 0.05, center.shape), (4, 4), epochs=150, batch_size=64)
    assert codes.shape == (320, 2) and codes.min() >= 0 and codes.max() <= 3 and residual < 0.6
    groups = codes.reshape(16, 20, 2)
    assert np.mean((groups == groups[:, :1]).all((1, 2))) > 0.8  # items of a cluster share their codes
    assert len(np.unique(codes, axis=0)) >= 6


@pytest.mark.parametrize("quantize", [residual_kmeans, partial(rq_vae, epochs=2)])
def test_codes_depend_on_the_seed_and_on_nothing_else(quantize):
    vectors = np.random.default_rng(0).normal(size=(200, 4))
    before, state = vectors.copy(), torch.get_rng_state()
    first, again, other = (quantize(vectors, (8, 8), seed=seed).codes for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(vectors, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named_by_its_row(value):
    vectors = np.zeros((5, 2))
    vectors[[3, 4], 1] = value
    with pytest.raises(ValueError, match=r"item row 3 is not finite \(2 such rows\)"):
        residual_kmeans(vectors, (2,))


def test_more_clusters_than_items_are_refused():
    with pytest.raises(ValueError, match="6 clusters for 5 items"):
        residual_kmeans(np.zeros((5, 2)), (2, 6))
