"""The two ways of sharing a prompt, all items in one row and branches in a cache, against the plain forward."""

import torch
from torch import Tensor

from catalog import Trie
from catalog.errors import GFlowGRError, RunError
from interactions.prompts import PromptBatch
from policy.agreement import Agreement
from policy.base import CachedBranches, TriePolicy, check_numbers, inference

REMEDY = "Try attn_implementation='eager' or another backbone, for instance qwen3, llama or gpt2."


def check_shared_prefix(policy: TriePolicy, prompts: PromptBatch, items: Tensor, *, exact: bool = True) -> float:
    """The largest difference of both ways from the naive log-probabilities, for items [B, K] and at least two.

    Draws and beams grow in the cache, so the cache is checked even where a method trains one item per prompt. exact:
    whether the model computes in float32. Raises RunError where it is more than rounding, see `Agreement`: the backbone
    then misreads the mask, and every loss or every draw would be wrong.
    """
    deep = _deepest(policy.trie).expand(len(items), -1)
    items = torch.cat([deep, items], 1)[:, : max(deep.shape[1], items.shape[1])]
    try:
        with inference(policy.model):
            naive = policy.naive_log_probs(prompts, items)
            found = [policy.log_probs(prompts, items).log_pf, _cached_log_probs(policy, prompts, items)]
    except (GFlowGRError, torch.OutOfMemoryError):
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"The backbone does not take a mask of shared prompts: {error}.", remedy=REMEDY) from error
    check_numbers(naive)
    each = [Agreement.of(log_pf, naive) for log_pf in found]
    for agreement in each:
        if problem := agreement.problem(exact):
            raise RunError(
                f"The shared-prefix forward's log-probabilities differ from the naive one's {problem}: this backbone "
                "does not honor 4-D attention masks or positions.",
                remedy=REMEDY,
            )
    return max(agreement.largest for agreement in each)


def _cached_log_probs(policy: TriePolicy, prompts: PromptBatch, items: Tensor) -> Tensor:
    """log_pf [B, K, L] of items [B, K], grown code by code behind the cached prompt, as draws and beams are."""
    path = policy.trie.path(items)
    column = torch.arange(items.shape[1], device=items.device).expand_as(items)
    logits, branches = policy._read(prompts)
    assert isinstance(branches, CachedBranches)
    branches.select(torch.zeros_like(items))
    read = [logits.expand(-1, items.shape[1], -1)]
    read += [branches.advance(policy.tokens[nodes], column) for nodes in path[..., 1:-1].unbind(-1)]
    return policy.path_log_probs(read, path)[0]


def _deepest(trie: Trie) -> Tensor:
    """Two items [2] whose paths have as many choices as any, far apart; one where the catalog has one leaf."""
    choices = (trie.first_child.diff() > 1).long()  # [nodes]
    for level in range(1, trie.levels + 1):
        nodes = trie.nodes_at(level)
        choices[nodes] += choices[trie.parent(nodes)]
    on_path = choices[trie.first_leaf :]  # [leaves]; at a leaf there is no choice
    most = (on_path == on_path.max()).nonzero().squeeze(1)
    if len(most) == 1:
        most = on_path.topk(min(2, len(on_path))).indices
    return trie.item(trie.first_leaf + most[[0, -1]][: trie.leaves])
