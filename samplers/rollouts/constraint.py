"""The trie inside vLLM: each step, the logits of tokens that lead out of the catalog become -inf.

Both classes are passed to an engine explicitly (`logits_processors=[...]`), never as an entry point, since the two
model runners of vLLM share one entry-point group and reject each other's processors. A request asks for the constraint
with `SamplingParams(extra_args={"trie": n})`: the last n tokens of its prompt are the first n codes of the item that it
continues, 0 for a whole one. Requests without it are left alone.
"""

from functools import cached_property

import torch
from torch import Tensor
from transformers import AutoTokenizer

from catalog import Catalog, Trie, code_of_token, node_tokens
from catalog.errors import InputError
from catalog.extras import extra

with extra("rollouts", "The trie inside vLLM"):
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates
    from vllm.v1.worker.gpu.buffer_utils import UvaBackedTensor
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

ARGUMENT = "trie"
"""Name of the request's argument, and of the folder with the catalog in the engine's `additional_config`."""


class TrieConstraint:
    """Which tokens may follow a partial semantic ID.

    trie, tokens [nodes] (`catalog.node_tokens`) lie on the logits' device; end: the only token that is legal after a
    whole ID, and after tokens that begin no ID.
    """

    def __init__(self, trie: Trie, tokens: Tensor, vocabulary: int, end: int) -> None:
        self.trie, self.tokens, self.end = trie, tokens, end
        self.width = max(trie.max_children)
        self.code = code_of_token(tokens, trie, vocabulary)  # [vocabulary]

    @classmethod
    def from_config(cls, config: VllmConfig, device: torch.device) -> "TrieConstraint":
        """The constraint of an engine, from the folder that its `additional_config` names and its tokenizer.

        Raises InputError for a folder that is missing, or of another catalog than the model was trained for.
        """
        folder = config.additional_config.get(ARGUMENT) if isinstance(config.additional_config, dict) else None
        if folder is None:
            raise InputError(
                f"The engine's additional_config names no catalog under {ARGUMENT!r}.",
                remedy="Give it the folder that holds catalog.json.",
                field=ARGUMENT,
            )
        catalog = Catalog.load(folder)
        catalog.check_trained(config.model_config.hf_config)
        trie = catalog.trie.to(device)
        tokenizer = AutoTokenizer.from_pretrained(config.model_config.tokenizer, trust_remote_code=False)
        end = tokenizer.pad_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        return cls(trie, node_tokens(tokenizer, trie).to(device), config.model_config.get_vocab_size(), end)

    def legal(self, taken: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The tokens that may follow: taken [rows, <= L] token ids, -1 behind the last.

        Groups of rows [n] and the tokens [n, C] that may follow each, with repeats. On a CPU a group has the rows of
        one level, and C is that level's: the root may have thousands of children and the nodes below it a few. On
        other devices all rows are one group of one width, so that no shape waits for what the device has computed.
        """
        node = torch.zeros(len(taken), dtype=torch.long, device=taken.device)
        for token in taken.unbind(1):
            child = self.trie.descend(node, self.code[token])
            child = child.where(self.tokens[child] == token, -1)  # the code, but of another level
            node = node.where(token < 0, child)
        if taken.device.type != "cpu":
            return [(torch.arange(len(node), device=node.device), self._children(node, self.width))]
        level = torch.bucketize(node, torch.tensor(self.trie.level_start[1:-1]), right=True)
        level[node < 0] = self.trie.levels  # as below a leaf: nothing of the catalog follows
        groups = []
        for number, width in enumerate((*self.trie.max_children, 1)):
            if len(rows := (level == number).nonzero().squeeze(1)):
                same = number == 0  # all of them at the root
                children = self._children(node[rows[:1] if same else rows], width)
                groups.append((rows, children.expand(len(rows), -1)))
        return groups

    def _children(self, node: Tensor, width: int) -> Tensor:
        """The tokens that may follow each node [n], -1 for none: [n, width], the last one repeated."""
        first, stop = self.trie.first_child[node].long(), self.trie.first_child[node + 1].long()
        slot = first.unsqueeze(1) + torch.arange(width, device=node.device)
        child = torch.minimum(slot, stop.unsqueeze(1) - 1)
        return self.tokens[child].masked_fill_(((node < 0) | (first == stop)).unsqueeze(1), self.end)

    def apply(self, logits: Tensor, taken: Tensor, rows: Tensor | None = None) -> Tensor:
        """logits [rows, V], in place, with -inf wherever the token does not follow taken [rows, <= L].

        rows: bool [rows], those that are constrained; None for all.
        """
        legal = [(row.unsqueeze(1), tokens) for row, tokens in self.legal(taken)]
        kept = [logits[at] for at in legal]  # also of rows without the constraint, where it changes nothing
        if rows is None:
            logits.fill_(-torch.inf)
        else:
            logits.masked_fill_(rows.unsqueeze(1), -torch.inf)
        for at, values in zip(legal, kept, strict=True):
            logits[at] = values
        return logits


def prefix_length(params: SamplingParams) -> int | None:
    """How many tokens of the prompt's end belong to the item; None for a request without the constraint."""
    return (params.extra_args or {}).get(ARGUMENT)


def check_prefix(params: SamplingParams) -> None:
    """Raise InputError for an argument that is no number of tokens."""
    length = prefix_length(params)
    if length is not None and (type(length) is not int or length < 0):
        raise InputError(
            f"{ARGUMENT}={length!r}: give the number of the item's codes at the end of the prompt, 0 or more.",
            field=ARGUMENT,
            value=length,
        )


class TrieLogitsProcessor(LogitsProcessor):
    """The constraint for vLLM's V1 model runner, which CPUs use."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.constraint, self.device = TrieConstraint.from_config(vllm_config, device), device
        # row -> the codes at the end of its prompt, and the list that its output is appended to
        self.requests: dict[int, tuple[list[int], list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_prefix(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.requests, batch_update, self._start)

    @staticmethod
    def _start(
        params: SamplingParams, prompt: list[int] | None, output: list[int]
    ) -> tuple[list[int], list[int]] | None:
        length = prefix_length(params)
        if length is None:
            return None
        tokens = prompt or []
        return tokens[len(tokens) - length :], output

    def apply(self, logits: Tensor) -> Tensor:
        if not self.requests:
            return logits
        levels = self.constraint.trie.levels
        taken = [(prefix + output)[:levels] for prefix, output in self.requests.values()]
        longest = max(map(len, taken))
        rows = torch.tensor(list(self.requests), device=self.device)
        padded = torch.full((len(logits), longest), -1, device=self.device)
        given = [row + [-1] * (longest - len(row)) for row in taken]
        padded[rows] = torch.tensor(given, dtype=torch.int64, device=self.device)
        constrained = torch.zeros(len(logits), dtype=torch.bool, device=self.device).index_fill_(0, rows, True)
        return self.constraint.apply(logits, padded, None if len(rows) == len(logits) else constrained)


class TrieLogitsProcessorV2(LogitsProcessorV2):
    """The constraint for vLLM's V2 model runner, which GPUs use: it reads the tokens where they are, on the device.

    The prefixes are written on the host and read through memory that the device sees, as vLLM's own processors do: a
    copy in each step would wait until the step's forward is done.
    """

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self.config, self.states = vllm_config, req_states
        self.prefix = UvaBackedTensor(req_states.max_num_reqs, torch.int32)  # [slots]; -1 without the constraint
        self.prefix.np.fill(-1)

    @cached_property
    def constraint(self) -> TrieConstraint:
        """Made at the first use, since a sleep discards the memory of what is made while the model is loaded."""
        return TrieConstraint.from_config(self.config, self.states.device)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_prefix(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        length = prefix_length(sampling_params)
        self.prefix.np[req_idx] = -1 if length is None else length
        return length is not None

    def apply_staged_writes(self) -> None:
        self.prefix.copy_to_uva()

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        slot = ctx.expanded_idx_mapping.long()  # [rows]
        prefix = self.prefix.gpu[slot].long()
        begin = self.states.prompt_len.gpu[slot].long() - prefix.clamp(min=0)  # where the item's codes begin
        step = torch.arange(self.constraint.trie.levels, device=logits.device)
        position = (begin.unsqueeze(1) + step).clamp(max=self.states.all_token_ids.gpu.shape[1] - 1)
        token = self.states.all_token_ids.gpu[slot.unsqueeze(1), position].long()
        taken = token.where(begin.unsqueeze(1) + step <= ctx.pos.unsqueeze(1), -1)
        return self.constraint.apply(logits, taken, prefix >= 0)
