"""A decoder-only backbone seen through the trie."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import Cache

from catalog import Trie
from interactions.prompts import PromptBatch
from policy.plan import TriePlan
from policy.tree import additive_mask, branch_visibility, prompt_positions


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Neither gradients nor dropout inside; the model's mode is put back at the end."""
    training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(training)


@dataclass(frozen=True)
class PathLogProbs:
    """Log-probabilities under P_F, float32, of whole paths and of every step on them.

    log_pf [B, K, L] of the K given items after the prompt; states [B, K, L, D] the backbone's last hidden state at each
    node that a step leaves, the root's being the end of the prompt. None unless asked for: log_pf_history [B, N, L] of
    each item of the history after the items before it (meaningless where history is -1); child_log_pf [B, K, L, C] of
    all children of each node that a step leaves, -inf behind the last child.
    """

    log_pf: Tensor
    states: Tensor
    log_pf_history: Tensor | None = None
    child_log_pf: Tensor | None = None


class CausalPolicy:
    """P_F(code | prompt, node): the backbone's next-token logits, softmax over the children of the trie node only.

    model: any causal LM of transformers, also wrapped by DDP, DeepSpeed or PEFT. trie and tokens [nodes]
    (`catalog.node_tokens`) lie on the model's device. full_vocabulary: let `log_probs` normalise over every token
    instead, as trainers do that know no trie.
    """

    def __init__(self, model: nn.Module, trie: Trie, tokens: Tensor, *, full_vocabulary: bool = False) -> None:
        self.model, self.trie, self.tokens = model, trie, tokens
        self.full_vocabulary = full_vocabulary

    def log_probs(
        self, prompts: PromptBatch, items: Tensor, *, history: bool = False, children: bool = False
    ) -> PathLogProbs:
        """Log-probabilities of K items [B, K] per prompt from one forward of P + K (L - 1) tokens per row.

        The prompt is computed once; each item is a branch that reads the prompt and itself. With `history` the same
        forward also gives every item of the history as the next item after those before it, with `children` every
        child of the nodes on the paths.
        """
        (batch, count), (_, length) = items.shape, prompts.input_ids.shape
        path = self.trie.path(items)  # [B, K, L + 1]
        branch = self.tokens[path[..., 1:-1]]  # [B, K, L - 1]; the last code is never read
        steps = branch.shape[-1]
        depth = torch.arange(steps, device=items.device).expand(batch, count, steps)
        position = prompt_positions(prompts.attention_mask)
        if count == 1:  # a plain causal row needs no 4-D mask, so any attention kernel will do
            mask = torch.cat([prompts.attention_mask, prompts.attention_mask.new_ones(batch, steps)], 1)
        else:
            visible = branch_visibility(prompts.attention_mask, count, steps)
            mask = additive_mask(visible, next(self.model.parameters()).dtype)
        last = length - 1 - prompts.after  # the column of the history's last code, which predicts no code
        read = prompts.history.shape[1] * self.trie.levels if history else 0
        codes = torch.arange(last - read, last, device=items.device)  # the columns before the history's codes
        ends = torch.arange(length - 1, length + count * steps, device=items.device)  # the prompt's end, the branches
        output = self.model(
            input_ids=torch.cat([prompts.input_ids, branch.flatten(1)], 1),
            attention_mask=mask,
            position_ids=torch.cat([position, (position[:, -1:, None] + 1 + depth).flatten(1)], 1),
            logits_to_keep=torch.cat([codes, ends]),  # nowhere else: each spans the whole vocabulary
            use_cache=False,
            output_hidden_states=True,
        )
        log_pf, child_log_pf = self.along(_at_nodes(output.logits[:, len(codes) :], count, steps), path)
        return PathLogProbs(
            log_pf=log_pf,
            states=torch.stack(_at_nodes(output.hidden_states[-1][:, length - 1 :], count, steps), 2),
            log_pf_history=self._history(output.logits[:, : len(codes)], prompts.history) if history else None,
            child_log_pf=torch.stack([_padded(c, max(self.trie.max_children)) for c in child_log_pf], -2)
            if children
            else None,
        )

    def _history(self, logits: Tensor, history: Tensor) -> Tensor:
        """log_pf_history from the logits [B, N * L, V] before the history's codes."""
        logits = logits.unflatten(1, (-1, self.trie.levels))  # [B, N, L, V]
        return self.along(logits.unbind(-2), self.trie.path(history.clamp(min=0)))[0]

    def along(self, logits: Sequence[Tensor], path: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Log-probability of each step of a path [..., L + 1] from the logits before it, [..., V] each: [..., L].

        Beside it that of all children of the node that each step leaves: one [..., C] for each level.
        """
        steps, children = [], []
        for level, width in enumerate(self.trie.max_children):
            node, child = path[..., level], path[..., level + 1]
            slot = child - self.trie.first_child[node]
            log_p = self.child_log_probs(logits[level], node, width, self.full_vocabulary)
            steps.append(log_p.gather(-1, slot.unsqueeze(-1)).squeeze(-1))
            children.append(log_p)
        return torch.stack(steps, -1), children

    def child_log_probs(self, logits: Tensor, nodes: Tensor, width: int, full_vocabulary: bool = False) -> Tensor:
        """P_F over the children of each node: [..., V], [...] -> [..., width] float32, -inf behind the last child."""
        child = self.trie.children(nodes, width)
        scores = logits.gather(-1, self.tokens[child.clamp(min=0)]).float().masked_fill(child < 0, -torch.inf)
        if full_vocabulary:
            return scores - logits.float().logsumexp(-1, keepdim=True)
        return scores.log_softmax(-1)

    def sample(self, prompts: PromptBatch, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` independent draws from P_F per prompt, without dropout: items [B, count], log_pf [B, count, L].

        The mask over a prompt's branches has count * count * L entries, so thousands of draws are better split.
        """
        with inference(self.model):
            logits, branches = self._read(prompts)
            nodes = torch.zeros(len(prompts), count, dtype=torch.long, device=logits.device)
            logits = logits.expand(-1, count, -1)
            taken = []
            for level, width in enumerate(self.trie.max_children):
                if level:
                    logits = branches.advance(self.tokens[nodes])
                log_p = self.child_log_probs(logits, nodes, width)  # [B, count, width]
                slot = torch.multinomial(log_p.exp().flatten(0, 1), 1, generator=generator).view_as(nodes)
                taken.append(log_p.gather(-1, slot.unsqueeze(-1)).squeeze(-1))
                nodes = self.trie.first_child[nodes] + slot
            return self.trie.item(nodes), torch.stack(taken, -1)

    def beam(
        self, prompts: PromptBatch, width: int, excluded: Tensor | None = None, guide: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best items a beam of `width` finds, best first: items [B, width], log-probabilities [B, width].

        Items are distinct (one per leaf). excluded [B, H], -1 for padding: items that are passed over during the
        search, so that they cost no place in the beam. Places that no item is left for hold -1 and -inf.

        guide [B, nodes]: what each step into a node adds to its log P_F, for instance a multiple of the exact
        log F(child) - log F(node); the scores then are sums of both.
        """
        with inference(self.model):
            logits, branches = self._read(prompts)
            exhausted = self._exhausted(excluded)
            row = torch.arange(len(prompts), device=logits.device)[:, None, None] * self.trie.nodes
            nodes = torch.zeros(len(prompts), 1, dtype=torch.long, device=logits.device)
            score = torch.zeros(len(prompts), 1, device=logits.device)
            for level, fan in enumerate(self.trie.max_children):
                if level:
                    logits = branches.advance(self.tokens[nodes])
                child = self.trie.children(nodes, fan)  # [B, W, fan]
                total = score.unsqueeze(-1) + self.child_log_probs(logits, nodes, fan)
                if guide is not None:
                    total = total + guide.gather(1, child.clamp(min=0).flatten(1)).view_as(total)
                total = total.masked_fill((child < 0) | torch.isin(row + child, exhausted), -torch.inf).flatten(1)
                score, best = total.topk(min(width, total.shape[1]))
                nodes = child.flatten(1).gather(1, best).clamp(min=0)
                branches.select(best // fan)
            items = self.trie.item(nodes.clamp(min=self.trie.level_start[-2])).where(score > -torch.inf, -1)
            missing = (0, width - items.shape[1])
            return nn.functional.pad(items, missing, value=-1), nn.functional.pad(score, missing, value=-torch.inf)

    def distribution(self, prompts: PromptBatch) -> Tensor:
        """The exact log-probability of every item: [B, items].

        Every node with a choice below it is read once, as a trie-shaped branch of the prompt, a chunk of subtrees at a
        time. Where a leaf holds several items, each has the probability of the leaf.
        """
        with inference(self.model):
            logits, branches = self._read(prompts)
            trie, batch = self.trie, len(prompts)
            edge = torch.zeros(batch, trie.nodes, device=logits.device)  # log-probability of the edge into each node
            root = torch.zeros(batch, 1, dtype=torch.long, device=logits.device)
            self._fill(edge, logits, root[0])
            for nodes, depth, visible in self._plan.chunks:
                self._fill(edge, branches.read(self.tokens[nodes], depth, visible), nodes)
            for level in range(2, trie.levels + 1):
                nodes = torch.arange(*trie.level_start[level : level + 2], device=edge.device)
                edge[:, nodes] += edge[:, trie.parent(nodes)]
            return edge[:, trie.leaf_of_item]

    @cached_property
    def _plan(self) -> TriePlan:
        return TriePlan.of(self.trie)

    def _fill(self, edge: Tensor, logits: Tensor, nodes: Tensor) -> None:
        """Write P_F of the children of nodes [n], from the logits [B, n, V] after them, into edge [B, nodes]."""
        child = self.trie.children(nodes)  # [n, C]
        log_p = self.child_log_probs(logits, nodes.expand(len(edge), -1), child.shape[-1])  # [B, n, C]
        edge[:, child[child > 0]] = log_p[:, child > 0]

    def _exhausted(self, excluded: Tensor | None) -> Tensor:
        """row * nodes + node of every node below which a row has only excluded items; excluded [B, H]."""
        if excluded is None:
            return torch.empty(0, dtype=torch.long, device=self.tokens.device)
        row, slot = (excluded >= 0).nonzero(as_tuple=True)
        pairs = torch.stack([row, excluded[row, slot]], 1).unique(dim=0)  # [n, 2]; a repeat must not count twice
        key = pairs[:, :1] * self.trie.nodes + self.trie.path(pairs[:, 1])[:, 1:]
        key, count = key.unique(return_counts=True)
        return key[count == self.trie.items_below[key % self.trie.nodes]]

    def _read(self, prompts: PromptBatch) -> tuple[Tensor, "Branches"]:
        """Read the prompts once: logits [B, 1, V] after them, and the cache to grow branches from."""
        output = self.model(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            position_ids=prompt_positions(prompts.attention_mask),
            logits_to_keep=1,
            use_cache=True,
        )
        return output.logits, Branches(self.model, prompts.attention_mask, output.past_key_values)


def _at_nodes(values: Tensor, count: int, steps: int) -> list[Tensor]:
    """Outputs [B, 1 + K * (L - 1), X] after the prompt and along K branches, by level: L times [B, K, X].

    Views of the outputs, since logits of a large vocabulary would not fit twice; the prompt's is that of each branch.
    """
    first = values[:, :1].expand(-1, count, -1)
    return [first, *values[:, 1:].unflatten(1, (count, steps)).unbind(2)] if steps else [first]


def _padded(log_p: Tensor, width: int) -> Tensor:
    return nn.functional.pad(log_p, (0, width - log_p.shape[-1]), value=-torch.inf)


class Branches:
    """Partial paths that share one cached prompt: tokens are appended to the cache, and the mask says whose they are.

    So the prompt's keys are neither copied K times nor reordered when a beam changes its parents.
    """

    def __init__(self, model: nn.Module, attention_mask: Tensor, cache: Cache) -> None:
        self.model, self.cache = model, cache
        self.prompt = attention_mask.bool()  # [B, P]
        self.end = attention_mask.sum(1, keepdim=True)  # [B, 1], position of a branch's first token
        self.ancestors = torch.empty(len(attention_mask), 0, 0, dtype=torch.long, device=attention_mask.device)
        self.slots = 0  # tokens in the cache behind the prompt

    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token [B, K] to each branch: logits [B, K, V] after it."""
        batch, count = tokens.shape
        own = torch.arange(self.slots, self.slots + count, device=tokens.device).expand(batch, count).unsqueeze(-1)
        self.ancestors = own if self.slots == 0 else torch.cat([self.ancestors, own], -1)  # [B, K, depth]
        visible = torch.zeros(batch, count, self.slots + count, dtype=torch.bool, device=tokens.device)
        visible.scatter_(-1, self.ancestors, True)
        depth = self.ancestors.shape[-1] - 1
        logits = self._forward(tokens, self.end.expand(-1, count) + depth, visible)
        self.slots += count
        return logits

    def select(self, parent: Tensor) -> None:
        """Let branch k go on from what was branch parent[b, k]; parent [B, K']."""
        if self.slots:
            self.ancestors = self.ancestors.gather(1, parent.unsqueeze(-1).expand(-1, -1, self.ancestors.shape[-1]))

    def read(self, tokens: Tensor, depth: Tensor, visible: Tensor) -> Tensor:
        """Logits [B, n, V] after tokens [n] that lie `depth` [n] below the prompt; the cache is left as it was.

        visible [n, n]: which of these tokens each may read.
        """
        batch = len(self.prompt)
        logits = self._forward(tokens.expand(batch, -1), self.end + depth, visible.expand(batch, -1, -1))
        self.cache.crop(-len(tokens))
        return logits

    def _forward(self, tokens: Tensor, position: Tensor, visible: Tensor) -> Tensor:
        prompt = self.prompt.unsqueeze(1).expand(-1, tokens.shape[1], -1)
        return self.model(
            input_ids=tokens,
            attention_mask=additive_mask(torch.cat([prompt, visible], -1), next(self.model.parameters()).dtype),
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
