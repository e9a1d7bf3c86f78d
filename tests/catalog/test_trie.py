"""The trie in arrays against one in dictionaries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Trie


@st.composite
def semantic_ids(draw):
    """Codes [items, L] with equal rows among them, and the sizes of the levels, which may be larger than needed."""
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return np.array(draw(st.lists(row, min_size=1, max_size=30))), sizes


class DictTrie:
    """Prefixes in dictionaries, numbered by level and then in lexicographic order."""

    def __init__(self, codes, sizes):
        self.rows = [tuple(row) for row in codes.tolist()]
        self.prefixes = sorted({row[:n] for row in self.rows for n in range(len(sizes) + 1)}, key=lambda p: (len(p), p))
        self.node = {prefix: number for number, prefix in enumerate(self.prefixes)}

    def children(self, prefix):
        return [self.node[p] for p in self.prefixes if len(p) == len(prefix) + 1 and p[:-1] == prefix]

    def items(self, prefix):
        return [item for item, row in enumerate(self.rows) if row[: len(prefix)] == prefix]


def padded(rows):
    """Lists of unequal length [n, longest], -1 behind the end."""
    return [row + [-1] * (max(map(len, rows)) - len(row)) for row in rows]


@given(semantic_ids())
@settings(deadline=None)
def test_nodes_and_their_children_are_the_prefixes_in_use(drawn):
    codes, sizes = drawn
    trie, other = Trie.build(codes, sizes), DictTrie(codes, sizes)
    nodes = torch.arange(trie.nodes)
    children = [other.children(prefix) for prefix in other.prefixes]
    assert (trie.nodes, trie.levels, trie.width) == (len(other.prefixes), len(sizes), max(sizes))
    assert trie.children(nodes).tolist() == padded(children)
    assert trie.children(nodes, 7).tolist() == padded([*children, [-1] * 7])[:-1]
    legal = [{other.prefixes[child][-1] for child in row} for row in children]
    assert trie.mask(nodes).tolist() == [[code in row for code in range(max(sizes))] for row in legal]
    assert trie.code(nodes[1:]).tolist() == [prefix[-1] for prefix in other.prefixes[1:]]
    assert trie.parent(nodes[1:]).tolist() == [other.node[prefix[:-1]] for prefix in other.prefixes[1:]]
    assert trie.max_children == tuple(
        max(len(row) for prefix, row in zip(other.prefixes, children, strict=True) if len(prefix) == level)
        for level in range(len(sizes))
    )
    levels = [[node for node, prefix in enumerate(other.prefixes) if len(prefix) == n] for n in range(len(sizes) + 1)]
    assert [trie.nodes_at(level).tolist() for level in range(len(sizes) + 1)] == levels
    assert trie.first_leaf == levels[-1][0]
    assert trie.leaf_number.tolist() == [levels[-1].index(other.node[row]) for row in other.rows]
    items = torch.arange(trie.items)
    same = [[row == column for column in other.rows] for row in other.rows]
    assert trie.same_leaf(items.unsqueeze(1), items).tolist() == same
    assert trie.items_below.tolist() == [len(other.items(prefix)) for prefix in other.prefixes]
    ways = [len({other.rows[item] for item in other.items(prefix)}) for prefix in other.prefixes]
    assert trie.open.tolist() == [count > 1 for count in ways]


@given(semantic_ids())
@settings(deadline=None)
def test_descend_follows_an_edge_and_leaves_the_trie_everywhere_else(drawn):
    codes, sizes = drawn
    trie, other = Trie.build(codes, sizes), DictTrie(codes, sizes)
    tried = range(-2, max(sizes) + 3)
    nodes = torch.arange(-1, trie.nodes).unsqueeze(1).expand(-1, len(tried))
    found = trie.descend(nodes, torch.tensor(tried).expand_as(nodes))
    assert found[0].tolist() == [-1] * len(tried)
    assert found[1:].tolist() == [[other.node.get((*prefix, code), -1) for code in tried] for prefix in other.prefixes]


@given(semantic_ids())
@settings(deadline=None)
def test_items_and_leaves_lead_to_each_other(drawn):
    codes, sizes = drawn
    trie, other = Trie.build(codes, sizes), DictTrie(codes, sizes)
    items = torch.arange(len(codes))
    assert (trie.items, trie.leaves) == (len(codes), len(set(other.rows)))
    assert trie.codes(items).tolist() == codes.tolist()
    assert trie.path(items).tolist() == [[other.node[row[:n]] for n in range(len(sizes) + 1)] for row in other.rows]
    leaves = torch.arange(trie.nodes)[-trie.leaves :]
    sharing = [other.items(other.prefixes[leaf]) for leaf in leaves]
    assert trie.item(leaves).tolist() == [group[0] for group in sharing]
    assert trie.leaf_items.tolist() == [item for group in sharing for item in group]
    assert trie.leaf_start.diff().tolist() == [len(group) for group in sharing]
    assert trie.representative(items).tolist() == [other.rows.index(row) for row in other.rows]


@pytest.mark.parametrize("shape", [(), (5,), (5, 3)])
def test_every_method_keeps_the_shape_of_its_batch(shape, catalog):
    trie = catalog.trie
    items = torch.randint(48, shape, generator=torch.Generator().manual_seed(0))
    path, codes = trie.path(items), trie.codes(items)
    assert path.shape == (*shape, trie.levels + 1)
    assert codes.shape == (*shape, trie.levels)
    node = torch.zeros(shape, dtype=torch.long)
    for level in range(trie.levels):
        assert trie.mask(node).shape == (*shape, trie.width)
        assert trie.mask(node).gather(-1, codes[..., level : level + 1]).all()
        assert trie.children(node, 9).shape == (*shape, 9)
        node = trie.descend(node, codes[..., level])
        assert torch.equal(node, path[..., level + 1])
    assert torch.equal(trie.item(node), items)
    assert torch.equal(trie.representative(items), items)


def test_a_moved_trie_is_the_same_trie(catalog):
    moved = catalog.trie.to("cpu")
    assert (moved.level_start, moved.sizes) == (catalog.trie.level_start, catalog.trie.sizes)
    assert all(torch.equal(getattr(moved, name), getattr(catalog.trie, name)) for name in Trie.TENSORS)


def test_an_item_takes_at_most_64_bytes():
    trie = Trie.build(np.random.default_rng(0).integers(0, 256, (100_000, 4)), (256,) * 4)
    assert trie.bytes <= 64 * trie.items
    assert trie.bytes == sum(getattr(trie, n).numel() * getattr(trie, n).element_size() for n in Trie.TENSORS)
