"""What can be recommended.

`Catalog` holds the items and their semantic IDs; its `Trie` answers which codes may follow which.
`word_tokenizer` and `extend_tokenizer` give every code one token. `Trajectories` are the paths that samplers draw
through the trie, and `exact_log_flow` is what each of its nodes is worth when the reward of every item is known; with
`SparseReward` and `SparseFlows` few items are named, and the size of the catalog does not matter.
"""

from typing import TYPE_CHECKING

from catalog.on_demand import on_demand

if TYPE_CHECKING:
    from catalog.catalog import Ancestor, Catalog, Collisions
    from catalog.flows import DENSE_ITEMS, DenseFlows, Flows, draw_items, exact_log_flow
    from catalog.sparse_flows import SparseFlows, SparseReward, SparseValues
    from catalog.tokens import code_of_token, extend_tokenizer, node_tokens, word_tokenizer
    from catalog.trajectories import PADDING, SOURCES, Trajectories
    from catalog.trie import Trie
else:
    __getattr__ = on_demand(
        __name__,
        {
            "catalog": ("Ancestor", "Catalog", "Collisions"),
            "flows": ("DENSE_ITEMS", "DenseFlows", "Flows", "draw_items", "exact_log_flow"),
            "sparse_flows": ("SparseFlows", "SparseReward", "SparseValues"),
            "tokens": ("code_of_token", "extend_tokenizer", "node_tokens", "word_tokenizer"),
            "trajectories": ("PADDING", "SOURCES", "Trajectories"),
            "trie": ("Trie",),
        },
    )

__all__ = [
    "DENSE_ITEMS",
    "PADDING",
    "SOURCES",
    "Ancestor",
    "Catalog",
    "Collisions",
    "DenseFlows",
    "Flows",
    "SparseFlows",
    "SparseReward",
    "SparseValues",
    "Trajectories",
    "Trie",
    "code_of_token",
    "draw_items",
    "exact_log_flow",
    "extend_tokenizer",
    "node_tokens",
    "word_tokenizer",
]
