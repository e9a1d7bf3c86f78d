"""A policy that an engine computes: beams, draws and log-probabilities without a model in this process."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from catalog import Trie, code_of_token
from catalog.errors import DivergedError, InputError, RunError
from interactions.prompts import PromptBatch, PromptBuilder
from policy import ON_POLICY, Exploration, PathLogProbs, TriePolicy
from policy.base import Branches
from policy.folders import check_finished
from samplers.rollouts.engine import RolloutEngine
from samplers.rollouts.vllm_engine import VLLMEngine


class EnginePolicy(TriePolicy):
    """P_F of the weights that an engine holds, for inference: no gradients, and no states of the backbone.

    trie, tokens [nodes]: on the CPU, where all that it returns lies. Prompts may be on any device.

    The engine gives P_F over the children of one node a request, so a beam, exploring draws and given paths are read
    level by level, each distinct node of a prompt once and those without a choice not at all. Draws from P_F itself are
    made by the engine, one request a prompt.
    """

    def __init__(self, engine: RolloutEngine, trie: Trie, tokens: Tensor) -> None:
        super().__init__(nn.Identity(), trie, tokens)
        self.engine = engine
        self._code = code_of_token(tokens, trie, int(tokens.max()) + 1)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        catalog: str | Path,
        prompts: PromptBuilder,
        *,
        dtype: str = "float32",
        settings: dict[str, Any] | None = None,
    ) -> "EnginePolicy":
        """The policy of a finished run, computed by vLLM in this process.

        catalog: the folder that `Catalog.save` wrote, of the catalog that `prompts` was made for. dtype and settings:
        see `VLLMEngine`, which also says what is raised where vLLM does not start. Raises InputError for a folder that
        holds no whole checkpoint.
        """
        check_finished(folder)
        engine = VLLMEngine(folder, catalog, longest=prompts.longest, dtype=dtype, settings=settings)
        return cls(engine, prompts.trie, prompts.tokens)

    def sample(
        self, prompts: PromptBatch, count: int, generator: torch.Generator, exploration: Exploration = ON_POLICY
    ) -> tuple[Tensor, Tensor]:
        """`count` independent draws per prompt, see `TriePolicy.sample`; generator: of the CPU."""
        if exploration != ON_POLICY:  # the engine's log-probabilities would be those of the changed distribution
            return super().sample(prompts, count, generator, exploration)
        seeds = torch.randint(2**62, (len(prompts),), generator=generator)
        return self.draw(prompts, count, seeds.tolist())

    def draw(self, prompts: PromptBatch, count: int, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """`count` draws from P_F per prompt, by its seed: items [B, count], log_pf [B, count, L].

        Raises RunError where the engine drew what is no item of the catalog, DivergedError for weights that have
        diverged.
        """
        tokens, log_pf = self.engine.sample(prompts.token_lists(), count, seeds)
        _check_numbers(log_pf)
        leaf = self.trie.leaf(self._codes(tokens))
        items = self.trie.item(leaf.clamp(min=self.trie.first_leaf))  # any, for what leads nowhere
        self._check_tokens(tokens, self.tokens[self.trie.path(items)[..., 1:]])
        return items, log_pf

    def log_probs(
        self, prompts: PromptBatch, items: Tensor, *, history: bool = False, children: bool = False
    ) -> PathLogProbs:
        """Log-probabilities of K items [B, K] per prompt; `states` has no width.

        Raises InputError where those of the history are asked for, which are a training loss's.
        """
        if history:
            raise InputError("An engine gives no log-probabilities of the history.", remedy="Load the model itself.")
        lists, path = prompts.token_lists(), self.trie.path(items)
        log_p = [self._child_log_pf(lists, nodes, self.trie.open[nodes]) for nodes in path[..., :-1].unbind(-1)]
        return self._paths(log_p, [torch.empty(*items.shape, 0)] * self.trie.levels, path, children)

    def naive_log_probs(self, prompts: PromptBatch, items: Tensor) -> Tensor:
        return self.log_probs(prompts, items).log_pf

    def distribution(self, prompts: PromptBatch) -> Tensor:
        """The exact log-probability of every item, [B, items], from one request for each prompt and open node."""
        lists, trie = prompts.token_lists(), self.trie
        log_p = torch.zeros(len(prompts), trie.nodes)
        for level in range(trie.levels):
            nodes = trie.nodes_at(level).expand(len(prompts), -1)
            child = trie.children(nodes[0], trie.max_children[level])
            step = self._child_log_pf(lists, nodes, trie.open[nodes])[..., : child.shape[-1]]
            log_p[:, child[child > 0]] = (log_p.gather(1, nodes).unsqueeze(-1) + step)[:, child > 0]
        return log_p[:, trie.leaf_of_item]

    def child_log_probs(self, logits: Tensor, nodes: Tensor, width: int, full_vocabulary: bool = False) -> Tensor:
        return logits[..., :width]  # what an engine gives is P_F over the children already

    def _read(self, prompts: PromptBatch) -> tuple[Tensor, Branches]:
        branches = _PromptTokens(prompts)
        root = torch.zeros(len(prompts), 1, dtype=torch.long)
        return self._child_log_pf(branches.lists, root, self.trie.open[root]), branches

    def _advance(self, branches: Branches, nodes: Tensor, width: int) -> Tensor:
        assert isinstance(branches, _PromptTokens)
        unsettled = self.trie.open[nodes] & (nodes > 0)  # a place that no item is left for holds the root
        return self._child_log_pf(branches.lists, nodes, unsettled)[..., :width]

    def _child_log_pf(self, prompts: list[list[int]], nodes: Tensor, asked: Tensor) -> Tensor:
        """P_F over the children of nodes [B, K] of one level: [B, K, C], -inf behind the last child.

        asked [B, K] bool: the nodes that the engine is asked for; the first child of the others is certain.
        """
        if not asked.any():  # at least one, since processes that share an engine ask it together
            asked = torch.zeros_like(asked).flatten().index_fill(0, nodes.argmax(), True).view_as(asked)
        log_p = torch.full((*nodes.shape, max(self.trie.max_children)), -torch.inf)
        log_p[..., 0] = 0.0
        row, column = asked.nonzero(as_tuple=True)
        pairs, place = torch.stack([row, nodes[row, column]], 1).unique(dim=0, return_inverse=True)
        log_p[row, column] = self._extend(prompts, *pairs.unbind(1))[place]
        return log_p

    def _extend(self, prompts: list[list[int]], row: Tensor, nodes: Tensor) -> Tensor:
        """P_F over the children of each node [n], of one level, after the prompt of its row [n]: [n, C]."""
        prefix, above = self.tokens.new_empty(len(nodes), 0), nodes
        while above.any():
            prefix = torch.cat([self.tokens[above].unsqueeze(1), prefix], 1)
            above = self.trie.parent(above)
        begun = [prompts[r] + codes for r, codes in zip(row.tolist(), prefix.tolist(), strict=True)]
        first = self.trie.first_child[nodes].long()
        width = int((self.trie.first_child[nodes + 1] - first).max())
        tokens, given = self.engine.extend(begun, prefix.shape[1], width)
        _check_numbers(given.amax(-1))  # every node has a child
        at, slot = (given > -torch.inf).nonzero(as_tuple=True)
        child = self.trie.descend(nodes[at], self._codes(tokens)[at, slot])
        self._check_tokens(tokens[at, slot], self.tokens[child.clamp(min=0)])
        log_p = torch.full((len(nodes), max(self.trie.max_children)), -torch.inf)
        log_p[at, child - first[at]] = given[at, slot]
        return log_p

    def _codes(self, tokens: Tensor) -> Tensor:
        return self._code[tokens.clamp(max=len(self._code) - 1)]

    @staticmethod
    def _check_tokens(found: Tensor, expected: Tensor) -> None:
        if not torch.equal(found, expected):
            wrong = found[found != expected][0]
            raise RunError(
                f"The rollout engine gave the token {wrong}, which leads to no item of the catalog.",
                remedy="Start it with this run's catalog and vocabulary.",
            )


class _PromptTokens:
    """The prompts' tokens. A node says all of the branch to it, so that beams and draws may go on from any."""

    def __init__(self, prompts: PromptBatch) -> None:
        self.lists = prompts.token_lists()

    def select(self, parent: Tensor) -> None:
        """Nothing is kept of branches."""


def _check_numbers(log_pf: Tensor) -> None:
    if not log_pf.isfinite().all():
        raise DivergedError(
            "The rollout engine's log-probabilities are no numbers: the policy's weights have diverged.",
            remedy="Go on from an earlier checkpoint with a lower learning rate.",
        )
