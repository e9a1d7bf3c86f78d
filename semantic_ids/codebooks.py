"""What is kept of a quantizer: the centroids of each level, by which items that come later get their codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from catalog.errors import InputError
from catalog.files import complete, read_json, write_json

TENSORS, RECORD = "codebooks.safetensors", "codebooks.json"
ROWS = 4096
"""How many vectors are coded at once."""

Origin = Literal["quantizer", "index"]


@dataclass(frozen=True)
class Codebooks:
    """A residual quantizer: level l gives the centroid that is nearest to what the levels before it left over.

    centroids: of each level, [codes, d'] float32. encoder: weight and bias of the linear layers, with ReLU between
    them, that turn a vector [d] into one [d']; () where vectors are taken as they are.
    origin: "quantizer" where its codes are the catalog's own; "index" where the centroids are means of the vectors of
    items that an index gave their codes, so that not every item is nearest to its own.
    """

    centroids: tuple[Tensor, ...]
    encoder: tuple[tuple[Tensor, Tensor], ...] = ()
    origin: Origin = "quantizer"

    @classmethod
    def from_codes(cls, codes: np.ndarray, vectors: np.ndarray) -> "Codebooks":
        """The centroids of given codes [items, L]: means of what the levels before left over of vectors [items, d].

        A code that no item has gets the zero vector.
        """
        residual, centroids = torch.from_numpy(np.asarray(vectors, np.float32)), []
        for level in torch.from_numpy(codes).unbind(1):  # [items]
            size = int(level.max()) + 1
            total = torch.zeros(size, residual.shape[1]).index_add_(0, level, residual)
            center = total / level.bincount(minlength=size).clamp(min=1).unsqueeze(1)  # [codes, d]
            residual = residual - center[level]
            centroids.append(center)
        return cls(tuple(centroids), origin="index")

    @property
    def levels(self) -> int:
        return len(self.centroids)

    @property
    def width(self) -> int:
        """d, the width of the vectors that are coded."""
        return (self.encoder[0][0] if self.encoder else self.centroids[0]).shape[1]

    def encode(self, vectors: np.ndarray) -> Tensor:
        """Vectors [items, d] as the first level reads them, [items, d'].

        Raises InputError for vectors of another width or shape, and for one that is not finite, by its row.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise InputError(
                f"Vectors of shape {list(vectors.shape)} for codebooks of vectors [items, {self.width}].",
                remedy="Take the model, and the order of several fused ones, that the semantic IDs were made from.",
                field="vectors",
                value=vectors.shape,
            )
        if (bad := ~np.isfinite(vectors).all(1)).any():
            raise InputError(
                f"The vector of row {int(bad.argmax())} is not finite ({int(bad.sum())} such rows).",
                remedy="Mend these vectors, or leave their items out.",
                row=int(bad.argmax()),
                field="vectors",
            )
        hidden = torch.from_numpy(np.asarray(vectors, np.float32))
        for number, (weight, bias) in enumerate(self.encoder):
            hidden = F.linear(hidden.relu() if number else hidden, weight, bias)
        return hidden

    def codes(self, vectors: np.ndarray) -> np.ndarray:
        """The nearest codes of vectors [items, d]: [items, L] int64. Raises as `encode` does."""
        rows = [self._nearest(part) for part in self.encode(vectors).split(ROWS)]
        return torch.cat(rows).numpy()

    def _nearest(self, residual: Tensor) -> Tensor:
        found = []
        for center in self.centroids:
            code = distances(residual, center).argmin(1)  # [n]
            residual = residual - center[code]
            found.append(code)
        return torch.stack(found, 1)

    def save(self, folder: Path) -> None:
        """Write codebooks.safetensors and codebooks.json under `folder`."""
        tensors = {f"centroids.{level}": center.contiguous() for level, center in enumerate(self.centroids)}
        for number, (weight, bias) in enumerate(self.encoder):
            tensors |= {f"encoder.{number}.weight": weight.contiguous(), f"encoder.{number}.bias": bias.contiguous()}
        with complete(folder / TENSORS) as temporary:
            temporary.write_bytes(save(tensors))
        write_json(folder / RECORD, {"origin": self.origin, "levels": self.levels, "layers": len(self.encoder)})

    @classmethod
    def load(cls, folder: str | Path) -> "Codebooks":
        """What `save` wrote. Raises InputError where there are none, or they are damaged."""
        folder = Path(folder)
        if not (folder / RECORD).is_file():
            raise InputError(
                f"{folder} keeps no codebooks, so nothing says which codes a further item gets.",
                remedy="Prepare it again, of an index with the vectors of its items beside it: --vectors items.npz.",
                file=folder,
                field="codebooks",
            )
        record = read_json(folder / RECORD, "The record of the codebooks")
        try:
            tensors = load_file(folder / TENSORS)
            centroids = tuple(tensors[f"centroids.{level}"] for level in range(record["levels"]))
            names = [f"encoder.{number}" for number in range(record["layers"])]
            encoder = tuple((tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names)
            return cls(centroids, encoder, record["origin"])
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} holds no whole codebooks ({error}).", remedy="Prepare it again.", file=folder
            ) from error


def distances(residual: Tensor, centroids: Tensor) -> Tensor:
    """|c|^2 - 2 r c, [n, codes]: squared distances of residuals [n, d] less their own squared norms."""
    return centroids.pow(2).sum(1) - 2 * residual @ centroids.T


def agreement(codebooks: Codebooks, codes: np.ndarray, vectors: np.ndarray) -> Sequence[float]:
    """The share of items whose first l nearest codes are those of the index, for each l: L numbers."""
    same = codebooks.codes(vectors) == codes  # [items, L]
    return same.cumprod(1).mean(0).tolist()
