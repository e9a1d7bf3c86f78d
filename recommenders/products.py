"""The items with the largest inner products, among all of them or in the nearest parts of them."""

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from catalog.extras import extra
from recommenders.top import Top, top_of_products

SAMPLED = 4096
"""Items from which the sum over those that are not found is estimated."""


class Products:
    """softmax(users . items / temperature) by its best items.

    items: [n, d]. probes: 0 computes all products. Above, an inverted file of faiss groups the items into sqrt(n)
    clusters, and those of the `probes` clusters with the largest products of their centers are computed: then an item
    of another cluster is not found, and what is found has the probability that n / `SAMPLED` times a fixed random
    sample of the other items gives it. Raises SetupError without faiss.
    """

    def __init__(self, items: Tensor, probes: int) -> None:
        self.items, self.probes = items, probes

    def top(self, users: Tensor, k: int, temperature: float) -> Top:
        """The k best items of users [B, d], -1 behind those of the clusters that are searched."""
        if not self.probes:
            return top_of_products(users, self.items, k, temperature)
        products, found = self._index.search(users.detach().float().cpu().numpy(), min(k, len(self.items)))
        best, items = (torch.from_numpy(part).to(users.device) for part in (products, found))
        logits = (best / temperature).masked_fill(items < 0, -torch.inf)  # [B, k]
        sample = self._sample
        others = users @ self.items[sample].T / temperature  # [B, s]
        place = torch.searchsorted(sample, items).clamp(max=len(sample) - 1)
        place = place.where(sample[place] == items, len(sample))  # the last column takes what is not in the sample
        known = torch.zeros(len(users), len(sample) + 1, dtype=torch.bool, device=users.device).scatter_(1, place, True)
        rest = others.masked_fill(known[:, :-1], -torch.inf).logsumexp(1) + math.log(len(self.items) / len(sample))
        total = torch.logaddexp(logits.logsumexp(1), rest).unsqueeze(1)
        return Top(items, (logits - total).exp(), torch.zeros_like(rest))

    @cached_property
    def _index(self) -> Any:
        with extra("semantic-ids", "probes"):
            import faiss

        vectors = self.items.detach().float().cpu().numpy()
        clusters = max(1, round(math.sqrt(len(vectors))))
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], clusters, faiss.METRIC_INNER_PRODUCT
        )
        index.train(vectors)  # on as many of them as faiss finds enough for so many clusters
        index.add(vectors)
        index.nprobe = min(self.probes, clusters)
        return index

    @cached_property
    def _sample(self) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        return torch.randperm(len(self.items), generator=draw)[:SAMPLED].sort().values.to(self.items.device)
