"""What every backbone seen through the trie has: P_F of a path, draws, beams and the exact distribution."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from catalog import Trie
from catalog.errors import DivergedError
from interactions.prompts import PromptBatch
from policy.beam import StepGuide, beam_search
from policy.exploration import ON_POLICY, Exploration
from policy.head import Reading, reading
from policy.plan import TriePlan


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Neither gradients nor dropout inside; the model's mode is put back at the end."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class PathLogProbs:
    """Log-probabilities under P_F, float32, of whole paths and of every step on them.

    log_pf [B, K, L] of the K given items after the prompt; states [B, K, L, D] what the backbone's head reads at each
    node that a step leaves, its last hidden state, the root's being the end of the prompt. None unless asked for:
    log_pf_history [B, N, L] of each item of the history after the items before it (meaningless where history is -1);
    child_log_pf [B, K, L, C] of all children of each node that a step leaves, -inf behind the last child;
    child_log_pf_history [B, N, L, C].
    """

    log_pf: Tensor
    states: Tensor
    log_pf_history: Tensor | None = None
    child_log_pf: Tensor | None = None
    child_log_pf_history: Tensor | None = None


class TriePolicy(ABC):
    """P_F(code | prompt, node): the backbone's next-token logits, softmax over the children of the trie node only.

    model: a backbone of transformers, also wrapped by DDP, DeepSpeed or PEFT. trie and tokens [nodes]
    (`catalog.node_tokens`) lie on the model's device. full_vocabulary: let `log_probs` and `beam` normalize over every
    token instead, as trainers and searches do that know no trie. A kind of backbone says how it reads items, all after
    one prompt (`log_probs`) and each after its own (`naive_log_probs`), and how branches grow from a prompt (`_read`).
    """

    def __init__(self, model: nn.Module, trie: Trie, tokens: Tensor, *, full_vocabulary: bool = False) -> None:
        self.model, self.trie, self.tokens = model, trie, tokens
        self.full_vocabulary = full_vocabulary

    @abstractmethod
    def log_probs(
        self, prompts: PromptBatch, items: Tensor, *, history: bool = False, children: bool = False
    ) -> PathLogProbs:
        """Log-probabilities of K items [B, K] per prompt, the prompt being computed once; see `PathLogProbs`."""

    @abstractmethod
    def naive_log_probs(self, prompts: PromptBatch, items: Tensor) -> Tensor:
        """log_pf [B, K, L] of items [B, K], the prompt computed K times: the forward that everybody writes first."""

    @abstractmethod
    def _read(self, prompts: PromptBatch) -> tuple[Tensor, "Branches"]:
        """Read the prompts once: logits [B, 1, V] after them, and the branches that grow from them.

        They are `CachedBranches` unless the kind of policy overrides `_advance` and `distribution`, which read them.
        """

    def _reading(self, by_level: Callable[[Tensor], Sequence[Tensor]]) -> AbstractContextManager[Reading]:
        """See `reading`: around a forward of the model whose head reads the nodes of paths."""
        codes = [self.tokens[nodes] for nodes in self.trie.node_of_code]
        return reading(unwrap_model(self.model), by_level, codes, normalized=self.full_vocabulary)

    def _paths(
        self, logits: Sequence[Tensor], states: Sequence[Tensor], path: Tensor, children: bool, of_codes: bool = False
    ) -> PathLogProbs:
        """From logits and states [B, K or 1, X] at the node that each step of the paths [B, K, L + 1] leaves."""
        log_pf, child_log_pf = self.path_log_probs(logits, path, of_codes=of_codes)
        every = [state.expand(-1, path.shape[1], -1) for state in states]
        return PathLogProbs(
            log_pf, torch.stack(every, 2), child_log_pf=self.pad_stack(child_log_pf) if children else None
        )

    def pad_stack(self, child_log_pf: list[Tensor]) -> Tensor:
        """Children's log-probs of `path_log_probs`, [..., C_l] a level, as one [..., L, C], -inf behind the last."""
        widest = max(self.trie.max_children)
        pad = nn.functional.pad
        return torch.stack([pad(log_p, (0, widest - log_p.shape[-1]), value=-torch.inf) for log_p in child_log_pf], -2)

    def path_log_probs(
        self, logits: Sequence[Tensor], path: Tensor, *, of_codes: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Log-probability of each step of a path [..., L + 1] from the logits before it, [..., V] each: [..., L].

        Beside it that of all children of the node that each step leaves: one [..., C] for each level. of_codes: the
        logits are those of a `Reading`, of each level's codes alone.
        """
        steps, children = [], []
        for level, width in enumerate(self.trie.max_children):
            node, child = path[..., level], path[..., level + 1]
            slot = child - self.trie.first_child[node]
            if of_codes:
                log_p = self._code_log_probs(logits[level], node, width)
            else:
                log_p = self.child_log_probs(logits[level], node, width, self.full_vocabulary)
            steps.append(log_p.gather(-1, slot.unsqueeze(-1)).squeeze(-1))
            children.append(log_p)
        return torch.stack(steps, -1), children

    def child_log_probs(self, logits: Tensor, nodes: Tensor, width: int, full_vocabulary: bool = False) -> Tensor:
        """P_F over the children of each node: [..., V], [...] -> [..., width] float32, -inf behind the last child."""
        child = self.trie.children(nodes, width)
        logits = logits.expand(*nodes.shape, -1)
        scores = logits.gather(-1, self.tokens[child.clamp(min=0)]).float().masked_fill(child < 0, -torch.inf)
        if full_vocabulary:
            return scores - logits.float().logsumexp(-1, keepdim=True)
        return scores.log_softmax(-1)

    def _code_log_probs(self, logits: Tensor, nodes: Tensor, width: int) -> Tensor:
        """As `child_log_probs`, from the logits [..., S] of the codes of the nodes' level; see `Reading`."""
        child = self.trie.children(nodes, width)
        logits = logits.expand(*nodes.shape, -1)
        scores = logits.gather(-1, self.trie.code(child.clamp(min=1))).masked_fill(child < 0, -torch.inf)
        return scores if self.full_vocabulary else scores.log_softmax(-1)

    def sample(
        self, prompts: PromptBatch, count: int, generator: torch.Generator, exploration: Exploration = ON_POLICY
    ) -> tuple[Tensor, Tensor]:
        """`count` independent draws per prompt, without dropout: items [B, count], log_pf [B, count, L] under P_F.

        The draws are from P_F unless `exploration` says otherwise; log_pf is that of P_F in either case. The mask over
        a prompt's branches has count * count * L entries, so thousands of draws are better split. This, `beam` and
        `distribution` raise DivergedError for weights that have diverged to NaN.
        """
        with inference(self.model):
            logits, branches = self._read(prompts)
            nodes = torch.zeros(len(prompts), count, dtype=torch.long, device=logits.device)
            branches.select(nodes)
            taken = []
            for level in range(self.trie.levels):
                log_p = self._step(logits, branches, nodes, level)  # [B, count, C]
                chances = exploration.probabilities(log_p).flatten(0, 1)
                slot = torch.multinomial(chances, 1, generator=generator).view_as(nodes)
                taken.append(log_p.gather(-1, slot.unsqueeze(-1)).squeeze(-1))
                nodes = self.trie.first_child[nodes] + slot
            return self.trie.item(nodes), torch.stack(taken, -1)

    def beam(
        self,
        prompts: PromptBatch,
        width: int,
        excluded: Tensor | None = None,
        guide: StepGuide | None = None,
        *,
        k: int | None = None,
        allowed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The best items a beam of `width` finds, best first: items [B, k], log-probabilities [B, k].

        k: at most `width`, which is the default. With a smaller one, branches that cannot end among the best k are no
        longer computed, which changes nothing in the result. Items are distinct (one per leaf). excluded [B, H], -1
        for padding: items that are passed over during the search, so that they cost no place in the beam. allowed bool
        [items]: the only items that are not passed over. A leaf is passed over once all its items are. Places that no
        item is left for hold -1 and -inf.

        guide: what each step adds to its log P_F, for instance a multiple of the exact log F(child) - log F(node);
        the scores then are sums of both.
        """
        with inference(self.model):
            return beam_search(self, prompts, width, width if k is None else k, excluded, guide, allowed)

    def _step(self, logits: Tensor, branches: "Branches", nodes: Tensor, level: int) -> Tensor:
        """P_F over the children of the nodes [B, K] of a level, from which K branches go on: [B, K, C].

        logits [B, 1, V]: those of `_read`, for level 0.
        """
        width = self.trie.max_children[level]
        if level:
            log_p = self._advance(branches, nodes, width)
        else:
            log_p = self.child_log_probs(logits.expand(-1, nodes.shape[1], -1), nodes, width, self.full_vocabulary)
        check_numbers(log_p)
        return log_p

    def _advance(self, branches: "Branches", nodes: Tensor, width: int) -> Tensor:
        """P_F over the children of the nodes [B, K] that the branches have come to: [B, K, width].

        Branches without a choice at or below their node are not read, since all their steps have log-probability 0:
        in public catalogs that is most of them after two codes. Over the whole vocabulary no step is certain.
        """
        certain = torch.full((*nodes.shape, width), -torch.inf, device=nodes.device)
        certain[..., 0] = 0.0
        unsettled = (self.trie.open[nodes] | self.full_vocabulary) & (
            nodes > 0
        )  # [B, K]; an empty place holds the root
        most = max(
            1, int(unsettled.sum(1).max())
        )  # at least one, so that all processes of a sharded model run the same forwards
        assert isinstance(branches, CachedBranches)
        column = unsettled.to(torch.uint8).topk(most).indices  # [B, most]; rows with fewer take others as well
        left = nodes.gather(1, column)
        logits = branches.advance(self.tokens[left], column)
        log_p = self.child_log_probs(logits, left, width, self.full_vocabulary)
        return certain.scatter(1, column.unsqueeze(-1).expand(-1, -1, width), log_p)

    def distribution(self, prompts: PromptBatch) -> Tensor:
        """The exact log-probability of every item: [B, items].

        Every node with a choice below it is read once, as a trie-shaped branch of the prompt, a chunk of subtrees at a
        time. Where a leaf holds several items, each has the probability of the leaf.
        """
        with inference(self.model):
            logits, branches = self._read(prompts)
            assert isinstance(branches, CachedBranches)
            trie, batch = self.trie, len(prompts)
            edge = torch.zeros(batch, trie.nodes, device=logits.device)  # log-probability of the edge into each node
            root = torch.zeros(batch, 1, dtype=torch.long, device=logits.device)
            self._fill(edge, logits, root[0])
            for nodes, depth, visible in self._plan.chunks:
                self._fill(edge, branches.read(self.tokens[nodes], depth, visible), nodes)
            for level in range(2, trie.levels + 1):
                nodes = trie.nodes_at(level)
                edge[:, nodes] += edge[:, trie.parent(nodes)]
            check_numbers(edge)
            return edge[:, trie.leaf_of_item]

    @cached_property
    def _plan(self) -> TriePlan:
        return TriePlan.from_trie(self.trie)

    def _fill(self, edge: Tensor, logits: Tensor, nodes: Tensor) -> None:
        """Write P_F of the children of nodes [n], from the logits [B, n, V] after them, into edge [B, nodes]."""
        child = self.trie.children(nodes)  # [n, C]
        log_p = self.child_log_probs(logits, nodes.expand(len(edge), -1), child.shape[-1])  # [B, n, C]
        edge[:, child[child > 0]] = log_p[:, child > 0]


def check_numbers(log_p: Tensor) -> None:
    """Raise DivergedError where log-probabilities are NaN: a draw would fail in torch, and a beam would prefer them."""
    if log_p.isnan().any():
        raise DivergedError(
            "The policy's log-probabilities are NaN: its weights have diverged.",
            remedy="Go on from an earlier checkpoint with a lower learning rate.",
        )


class Branches(Protocol):
    """Partial paths that go on from one prompt, as a beam and a draw see them."""

    def select(self, parent: Tensor) -> None:
        """Let branch k go on from what was branch parent[b, k]; parent [B, K']. At first there is one, the prompt."""


class CachedBranches(ABC):
    """Branches of a backbone in this process: they share one cached prompt.

    Tokens are appended to the cache, and the mask says which branch they belong to. So the prompt's keys are neither
    copied K times nor reordered when a beam changes its parents.
    """

    def __init__(self, attention_mask: Tensor, cache: Cache) -> None:
        self.cache = cache
        self.prompt = attention_mask.bool()  # [B, P]
        # [B, K, depth], where in the cache each branch's tokens lie; any place for tokens that were not read
        self.ancestors = torch.empty(len(attention_mask), 1, 0, dtype=torch.long, device=attention_mask.device)
        self.slots = 0  # tokens in the cache behind the prompt

    def advance(self, tokens: Tensor, column: Tensor) -> Tensor:
        """Append one token [B, n] to the branches column [B, n], of those that `select` left: logits [B, n, V]."""
        batch, count = tokens.shape
        own = torch.arange(self.slots, self.slots + count, device=tokens.device).expand(batch, count)
        depth = self.ancestors.shape[-1]
        above = self.ancestors.gather(1, column.unsqueeze(-1).expand(-1, -1, depth))  # [B, n, depth]
        visible = torch.zeros(batch, count, self.slots + count, dtype=torch.bool, device=tokens.device)
        visible.scatter_(-1, torch.cat([above, own.unsqueeze(-1)], -1), True)
        place = own.new_zeros(self.ancestors.shape[:2]).scatter(1, column, own)
        self.ancestors = torch.cat([self.ancestors, place.unsqueeze(-1)], -1)
        logits = self._forward(tokens, torch.full_like(tokens, depth), visible)
        self.slots += count
        return logits

    def select(self, parent: Tensor) -> None:
        """See `Branches.select`."""
        self.ancestors = self.ancestors.gather(1, parent.unsqueeze(-1).expand(-1, -1, self.ancestors.shape[-1]))

    def read(self, tokens: Tensor, depth: Tensor, visible: Tensor) -> Tensor:
        """Logits [B, n, V] after tokens [n] that lie `depth` [n] below the prompt; the cache is left as it was.

        visible [n, n]: which of these tokens each may read.
        """
        batch = len(self.prompt)
        logits = self._forward(tokens.expand(batch, -1), depth.expand(batch, -1), visible.expand(batch, -1, -1))
        self._forget(len(tokens))
        return logits

    def _forget(self, count: int) -> None:
        """Drop the newest tokens."""
        self.cache.crop(-count)

    @abstractmethod
    def _forward(self, tokens: Tensor, depth: Tensor, visible: Tensor) -> Tensor:
        """Append tokens [B, n], `depth` [B, n] below the prompt, to the cache: logits [B, n, V] after them.

        visible [B, n, T]: which of the T tokens behind the prompt each reads, itself included.
        """


def unwrap_model(model: nn.Module) -> PreTrainedModel:
    """The backbone inside what DDP, DeepSpeed or PEFT made of it."""
    *_, backbone = _layers(model)
    return backbone


def compute_dtype(model: nn.Module) -> torch.dtype:
    """What attention computes in: autocast's, where it is on or accelerate turns it on in the forward; or the weights'.

    accelerate wraps the forward of a model that it prepares for mixed precision, and keeps the one before.
    """
    weight = next(model.parameters())
    if torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    if any("_original_forward" in vars(layer) for layer in _layers(model)):
        return torch.float16 if AcceleratorState().mixed_precision == "fp16" else torch.bfloat16
    return weight.dtype


def _layers(model: nn.Module) -> Iterator[Any]:
    """The model and what is wrapped in it, down to the backbone."""
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        yield inner
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner.module
    yield inner
