"""How far the policy's exact distribution over items is from the reward's."""

import torch
from torch import Tensor

from catalog import DENSE_ITEMS, Trie, exact_log_flow

MATCH_ITEMS = DENSE_ITEMS
"""Catalogs up to this size are compared item by item."""


def match_metrics(log_prob: Tensor, log_target: Tensor, trie: Trie) -> dict[str, Tensor]:
    """Distances between P_F and R / Z over the semantic IDs of the catalog, [B] each, in nats where not a share.

    log_prob [B, items] of `TriePolicy.distribution`; log_target [B, items], log R up to a constant. Items that
    share a semantic ID count as one, with the sum of their rewards.

    tv = 1/2 sum_x |P_F(x) - R(x)/Z|, from 0 to 1; kl = KL(R/Z || P_F); effective_items = exp(entropy), of P_F and of
    R/Z; reward_correlation of log R and log P_F; entropy_l of the policy's choice of the l-th code, the mean over
    prefixes as it reaches them.
    """
    target = exact_log_flow(log_target.float(), trie)[:, trie.first_leaf :].log_softmax(-1)  # [B, leaves]
    policy = log_prob[:, trie.item(trie.nodes_at(trie.levels))]  # [B, leaves]
    p, q = policy.exp(), target.exp()
    return {
        "tv": 0.5 * (p - q).abs().sum(-1),
        "kl": (q * (target - policy)).sum(-1),
        "effective_items": _entropy(policy).exp(),
        "target_effective_items": _entropy(target).exp(),
        "reward_correlation": _correlation(policy, target),
    } | {f"entropy_{level}": value for level, value in enumerate(_level_entropies(policy, trie), 1)}


def _entropy(log_p: Tensor) -> Tensor:
    return torch.special.entr(log_p.exp()).sum(-1)


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    """Pearson's r of each row, 0 where a row is constant but for rounding."""
    left, right = left - left.mean(-1, keepdim=True), right - right.mean(-1, keepdim=True)
    spread = left.norm(dim=-1) * right.norm(dim=-1)
    return ((left * right).sum(-1) / spread).where(spread > 1e-5 * left.shape[-1], 0.0)


def _level_entropies(policy: Tensor, trie: Trie) -> list[Tensor]:
    """Mean entropy [B] of the next code at each level: that of the nodes of a level less that of the level above."""
    edges, below = [], policy.exp()  # probabilities of the nodes of a level
    for level in range(trie.levels, 0, -1):
        edges.append(torch.special.entr(below).sum(-1))
        nodes = trie.nodes_at(level)
        above = torch.zeros(len(policy), trie.level_start[level] - trie.level_start[level - 1], device=policy.device)
        below = above.index_add_(1, trie.parent(nodes) - trie.level_start[level - 1], below)
    totals = [torch.zeros_like(edges[0]), *edges[::-1]]
    return [after - before for before, after in zip(totals, totals[1:], strict=False)]
