"""What the head of a language model gives at the nodes of paths: logits of the catalog's codes alone where it can."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

CHUNK = 2**24
"""How many logits exist at a time where the whole vocabulary normalizes: 64 MiB in float32."""
AFTERWARDS = ("final_logit_softcapping", "lm_head_multiplier", "logit_scale", "logits_scaling", "output_multiplier")
"""Names in configs of transformers for what a model does to the logits after its head."""


@dataclass
class Reading:
    """What one forward gives at the nodes that the steps of paths leave, level by level.

    by_level: splits values [B, n, X] of the n tokens that the head reads into L parts [B, n_l, X], by the level of the
    node that the token leads to. codes: the tokens of each level's codes, L times [S_l]. normalized: over the whole
    vocabulary. of_codes: whether the model's logits will be those of the codes alone, [B, n, max S_l] float32, grouped
    by level, those of level l being in the order of codes[l]; with `normalized` they are log-probabilities already.
    states: L parts [B, n_l, D], what the head read.
    """

    by_level: Callable[[Tensor], Sequence[Tensor]]
    codes: Sequence[Tensor]
    normalized: bool
    of_codes: bool
    states: Sequence[Tensor] = field(default_factory=list)

    def logits(self, output: Tensor) -> Sequence[Tensor]:
        """The model's logits [B, n, V] or [B, n, max S_l] by level: L parts [B, n_l, ...], views."""
        if self.of_codes:
            return output.split([part.shape[1] for part in self.states], 1)
        return self.by_level(output)

    def note(self, _: nn.Module, given: tuple[Tensor]) -> None:
        """A hook before the head's forward."""
        self.states = self.by_level(given[0])

    def forward(self, head: nn.Linear, hidden: Tensor) -> Tensor:
        """Instead of the head's forward: the logits of the codes, in float32 whatever the weights are."""
        self.states = self.by_level(hidden)
        zero = hidden.new_zeros((), dtype=torch.float32)
        total = self.by_level(log_partition(hidden, head)) if self.normalized else [zero] * len(self.codes)
        sizes, every = [len(codes) for codes in self.codes], torch.cat(list(self.codes))
        rows = nn.functional.embedding(every, head.weight).float().split(sizes)
        bias = [None] * len(rows) if head.bias is None else head.bias[every].float().split(sizes)
        with torch.autocast(hidden.device.type, enabled=False):
            parts = [
                nn.functional.pad(nn.functional.linear(state.float(), row, b) - z, (0, max(sizes) - len(row)))
                for state, row, b, z in zip(self.states, rows, bias, total, strict=True)
            ]
        return torch.cat(parts, 1)


@contextmanager
def reading(
    model: PreTrainedModel, by_level: Callable, codes: Sequence[Tensor], *, normalized: bool
) -> Iterator[Reading]:
    """For one forward of `model`, inside whatever wraps it: what its head reads and gives.

    A plain linear head computes the codes' logits alone. It does so inside the model's own forward and as its own
    module: ZeRO-3 and FSDP2 gather its weight, DDP sees its gradient, an adapter chooses its copy, and the model does
    to these logits what it does to all. Every other head gives the whole vocabulary.
    """
    output = model.get_output_embeddings()
    heads = plain_heads(output, model.config, normalized=normalized)
    found = Reading(by_level, codes, normalized, of_codes=bool(heads))
    hook = None if heads else output.register_forward_pre_hook(found.note)
    for head in heads:
        head.forward = partial(found.forward, head)  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for head in heads:
            del head.forward
        if hook is not None:
            hook.remove()


def plain_heads(output: nn.Module, config: PreTrainedConfig, *, normalized: bool) -> list[nn.Linear]:
    """The linear layers one of which is the whole head: several where an adapter keeps a copy; [] for other heads.

    What a model does to each logit afterwards, scaling or capping, it does to those of the codes too. Only with
    `normalized` the others would have to be known as well.
    """
    if normalized and any(getattr(config, name, None) not in (None, 1) for name in AFTERWARDS):
        return []
    kept = type(output).__name__ == "ModulesToSaveWrapper"  # peft's, which passes on to the copy that is active
    adapted: Any = output
    heads = [adapted.original_module, *adapted.modules_to_save.values()] if kept else [adapted]
    return heads if all(_is_plain(head) for head in heads) else []


def _is_plain(head: nn.Module) -> bool:
    # FSDP2 makes a subclass of a layer's class; what computes something else has a forward of its own
    return isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward and "forward" not in vars(head)


def log_partition(hidden: Tensor, head: nn.Linear) -> Tensor:
    """The logarithm of the sum over the vocabulary of exp of the logits: hidden [B, n, D] -> [B, n, 1] float32.

    Where there are many, a chunk of rows at a time, and again in the backward.
    """
    chunks = hidden.flatten(0, 1).split(max(1, CHUNK // len(head.weight)))
    if len(chunks) == 1:
        return _logsumexp(hidden, head)
    found = [checkpoint(_logsumexp, rows, head, use_reentrant=False, preserve_rng_state=False) for rows in chunks]
    return torch.cat(found).view(*hidden.shape[:-1], 1)


def _logsumexp(hidden: Tensor, head: nn.Linear) -> Tensor:
    return nn.functional.linear(hidden, head.weight, head.bias).float().logsumexp(-1, keepdim=True)
