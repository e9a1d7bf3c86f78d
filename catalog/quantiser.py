"""Semantic IDs from item vectors: residual k-means, one level after the other (RQ-k-means)."""

import faiss
import numpy as np


def residual_kmeans(vectors: np.ndarray, sizes: tuple[int, ...], *, iterations: int = 25, seed: int = 0) -> np.ndarray:
    """Codes [items, L] of `vectors` [items, d]: level l clusters what the levels before it left over.

    sizes: the number of clusters of each level. Raises ValueError for NaN or infinite vectors, which it names by row,
    and for more clusters than items.
    """
    if bad := np.flatnonzero(~np.isfinite(vectors).all(1)).tolist():
        raise ValueError(f"The vector of item row {bad[0]} is not finite ({len(bad)} such rows). Mend or drop them.")
    if max(sizes) > len(vectors):
        raise ValueError(f"{max(sizes)} clusters for {len(vectors)} items. Choose sizes up to the number of items.")
    residual = np.ascontiguousarray(vectors, np.float32)
    codes = np.empty((len(vectors), len(sizes)), np.int64)
    for level, size in enumerate(sizes):
        # min_points only silences a warning: small catalogues are wanted here
        kmeans = faiss.Kmeans(residual.shape[1], size, niter=iterations, seed=seed + level, min_points_per_centroid=1)
        kmeans.train(residual)
        assert kmeans.centroids is not None  # since it is trained
        codes[:, level] = kmeans.index.search(residual, 1)[1][:, 0]
        residual = residual - kmeans.centroids[codes[:, level]]
    return codes
