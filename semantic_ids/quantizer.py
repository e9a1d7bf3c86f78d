"""Semantic IDs from item vectors: residual k-means, one level after the other, or an RQ-VAE that learns its space."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from catalog.errors import InputError
from catalog.extras import extra
from catalog.progress import progress
from semantic_ids.codebooks import Codebooks


class Quantized(NamedTuple):
    """Codes of vectors, and what gives further ones theirs.

    codes: [items, L] int64. residual: the squared distance that they leave, as a share of the variance.
    """

    codes: np.ndarray
    residual: float
    codebooks: Codebooks


def default_sizes(items: int) -> tuple[int, int, int]:
    """Three levels for so many items: of each the power of two next to 2 sqrt(items), so that two codes have four
    prefixes for each item. No more codes than items."""
    return (min(2 ** round(math.log2(2 * items**0.5)), items),) * 3


def residual_kmeans(vectors: np.ndarray, sizes: tuple[int, ...], *, iterations: int = 25, seed: int = 0) -> Quantized:
    """Level l clusters the residuals of `vectors` [items, d] that the levels before it left.

    sizes: the number of clusters of each level. Raises InputError for NaN or infinite vectors, which it names by row,
    and for more clusters than items; SetupError without the library that clusters.
    """
    _check(vectors, sizes)
    with extra("semantic-ids", "quantizer=kmeans", field="quantizer"):
        import faiss

    residual = np.ascontiguousarray(vectors, np.float32)
    codes, centroids = np.empty((len(vectors), len(sizes)), np.int64), []
    for level, size in enumerate(sizes):
        # min_points only silences a warning: small catalogs are wanted here
        kmeans = faiss.Kmeans(residual.shape[1], size, niter=iterations, seed=seed + level, min_points_per_centroid=1)
        kmeans.train(residual)
        assert kmeans.centroids is not None  # since it is trained
        codes[:, level] = kmeans.index.search(residual, 1)[1][:, 0]
        residual = residual - kmeans.centroids[codes[:, level]]
        centroids.append(torch.from_numpy(kmeans.centroids.copy()))
    return Quantized(codes, _share(residual, vectors), Codebooks(tuple(centroids)))


def rq_vae(
    vectors: np.ndarray,
    sizes: tuple[int, ...],
    *,
    epochs: int = 200,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Quantized:
    """Residual quantization of what an encoder makes of `vectors` [items, d], trained to be decoded again.

    The RQ-VAE of TIGER, arXiv 2305.05065: an encoder d -> 512 -> 256 -> 128 -> 32, the decoder its mirror image, and
    codebooks by vector-quantize-pytorch, which begin at k-means and are updated as moving averages; codes that are no
    longer used are drawn again. Raises as `residual_kmeans` does.
    """
    _check(vectors, sizes)
    with extra("rq-vae", "quantizer=rq_vae", field="quantizer"):
        from vector_quantize_pytorch import ResidualVQ

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        spread = torch.from_numpy(np.asarray(vectors, np.float32))
        center, scale = spread.mean(0), spread.std()
        spread = (spread - center) / scale  # [items, d]
        widths = [spread.shape[1], 512, 256, 128, 32]
        encoder, decoder = _layers(widths), _layers(widths[::-1])
        quantize = ResidualVQ(
            dim=widths[-1], codebook_size=sizes, kmeans_init=True, kmeans_iters=25, threshold_ema_dead_code=1
        )
        learned = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.AdamW(learned, learning_rate)
        quantize(encoder(spread).detach())  # the codebooks begin at the k-means of all items, not of one batch
        for _ in progress(range(epochs), desc="rq-vae", unit="epoch"):
            for rows in torch.randperm(len(spread)).split(batch_size):
                if len(rows) < 2:
                    continue
                quantized, _, commitment = quantize(encoder(spread[rows]))
                loss = F.mse_loss(decoder(quantized), spread[rows]) + 0.25 * commitment.sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        quantize.eval()
        with torch.no_grad():
            quantized, codes, _ = quantize(encoder(spread))
            left = (spread - decoder(quantized)).numpy()
            codebooks = Codebooks(
                tuple(layer.codebook.clone() for layer in quantize.layers), _layers_of(encoder, center, scale)
            )
    return Quantized(codes.numpy().astype(np.int64), _share(left, spread.numpy()), codebooks)


QUANTIZERS: dict[str, Callable[..., Quantized]] = {"kmeans": residual_kmeans, "rq_vae": rq_vae}
"""Name -> (vectors [items, d], sizes, seed=...) -> codes."""


def _layers(widths: list[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _layers_of(encoder: nn.Sequential, center: Tensor, scale: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Weight and bias of the linear layers, the first of which takes vectors as they are: (x - center) / scale."""
    (weight, bias), *others = [(layer.weight, layer.bias) for layer in encoder if isinstance(layer, nn.Linear)]
    return ((weight / scale, bias - weight @ center / scale), *others)


def _check(vectors: np.ndarray, sizes: tuple[int, ...]) -> None:
    if bad := np.flatnonzero(~np.isfinite(vectors).all(1)).tolist():
        raise InputError(
            f"The vector of item row {bad[0]} is not finite ({len(bad)} such rows).", remedy="Mend or drop them."
        )
    if not sizes or min(sizes) < 1:
        raise InputError(
            f"Codebooks of the sizes {tuple(sizes)}.",
            remedy="Give each level 1 code or more.",
            field="sizes",
            value=sizes,
        )
    if max(sizes) > len(vectors):
        raise InputError(
            f"{max(sizes)} clusters for {len(vectors)} items.", remedy="Choose sizes up to the number of items."
        )
    if (vectors == vectors[0]).all():
        raise InputError("All item vectors are equal: there is nothing to tell items apart by.", remedy="Give others.")


def _share(left: np.ndarray, vectors: np.ndarray) -> float:
    """The squared norm of what is left of the vectors, as a share of their variance."""
    return float((left**2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())
