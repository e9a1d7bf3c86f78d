"""Item vectors from interactions alone, for catalogues without text."""

import numpy as np
from implicit.als import AlternatingLeastSquares
from scipy import sparse


def als_vectors(interactions: sparse.csr_matrix, factors: int = 64, iterations: int = 30, seed: int = 0) -> np.ndarray:
    """Unit item vectors [items, factors] of an ALS factorisation of `interactions` [users, items].

    Items without interactions get the zero vector.
    """
    model = AlternatingLeastSquares(factors=factors, iterations=iterations, random_state=seed, num_threads=1)
    model.fit(interactions, show_progress=False)
    vectors = np.asarray(model.item_factors, np.float32)
    vectors[np.asarray(interactions.sum(0)).ravel() == 0] = 0
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
