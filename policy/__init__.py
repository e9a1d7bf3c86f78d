"""A backbone seen through the trie.

`CausalPolicy` wraps a decoder-only model and has the four methods of every policy: `log_probs` of given items with the
prompt computed once, `sample`, `beam` and the exact `distribution`. The forward policy P_F is renormalised over the
legal children of a trie node in all four. `naive_log_probs` is the plain twin of `log_probs`; `check_shared_prefix`
compares them on a run's first step and `check_backbone` refuses backbones that would be silently wrong.
"""

from policy.causal import CausalPolicy, PathLogProbs, inference
from policy.naive import check_shared_prefix, naive_log_probs
from policy.tree import check_backbone

__all__ = ["CausalPolicy", "PathLogProbs", "check_backbone", "check_shared_prefix", "inference", "naive_log_probs"]
