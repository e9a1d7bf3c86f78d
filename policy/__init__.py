"""A backbone seen through the trie.

A `TriePolicy` has four methods: `log_probs` of given items with the prompt computed once, `sample`, `beam` and the
exact `distribution`. The forward policy P_F is renormalized over the legal children of a trie node in all four.
`CausalPolicy` wraps a decoder-only model, `EncoderDecoderPolicy` a T5, and `policy_of` chooses. `Exploration` says how
draws may depart from P_F. `check_shared_prefix` compares `log_probs` with its plain twin on a run's first step, and
`Agreement` says what is rounding; `check_backbone` refuses backbones that would be silently wrong. `load_backbone`
reads a checkpoint, or makes a new backbone, with the catalog's codes in its vocabulary.
"""

from policy.agreement import Agreement
from policy.backbone import auto_class, check_backbone, policy_of
from policy.base import PathLogProbs, TriePolicy, inference
from policy.causal import CausalPolicy
from policy.check import check_shared_prefix
from policy.encoder_decoder import EncoderDecoderPolicy
from policy.exploration import ON_POLICY, Exploration
from policy.loading import load_backbone

__all__ = [
    "ON_POLICY",
    "Agreement",
    "CausalPolicy",
    "EncoderDecoderPolicy",
    "Exploration",
    "PathLogProbs",
    "TriePolicy",
    "auto_class",
    "check_backbone",
    "check_shared_prefix",
    "inference",
    "load_backbone",
    "policy_of",
]
