"""Classical recommenders: baselines to print beside the policy, and teachers for the reward.

- `base`: the `Recommender` protocol (histories -> `[B, items]` scores) and `rank`, scores -> ranked items
- `item_knn`: item-to-item cosine, with older events counting less
- `popularity`: training counts, the same for everybody

- `item_vectors`: vectors to make semantic IDs from where items have no text

All are fitted on the training part alone, a `[users, items]` sparse matrix. A new recommender is one file with a
`score` method.
"""

from collaborative.base import Recommender, rank
from collaborative.item_knn import ItemKNN
from collaborative.item_vectors import cooccurrence_vectors
from collaborative.popularity import Popularity

__all__ = ["ItemKNN", "Popularity", "Recommender", "cooccurrence_vectors", "rank"]
