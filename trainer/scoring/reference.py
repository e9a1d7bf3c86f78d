"""The policy that training starts from, frozen."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from catalog import exact_log_flow
from catalog.errors import InputError
from catalog.progress import progress
from interactions.prompts import ROW_NUMBER, PromptBatch
from policy import TriePolicy, auto_class, inference
from trainer.front_door import as_rows


class Reference:
    """P_ref: the model without its adapters under LoRA, else a frozen copy, which ZeRO-3 shards like the model.

    policy: of the model or the copy. around: entered around each forward, to leave out the adapters, or for the
    autocast under which the policy computes.
    """

    def __init__(self, policy: TriePolicy, around: Callable[[], AbstractContextManager]) -> None:
        self.policy, self._around = policy, around

    def log_probs(self, prompts: PromptBatch, items: Tensor) -> Tensor:
        """Of every step to items [B, K]: [B, K, L]."""
        with self._around(), inference(self.policy.model):
            return self.policy.log_probs(prompts, items).log_pf

    def distribution(self, prompts: PromptBatch) -> Tensor:
        """The exact log-probability of every item: [B, items]."""
        with self._around():
            return self.policy.distribution(prompts)


class PrecomputedReference:
    """P_ref from a table that is filled once, before training, so that no second model is kept.

    Every row of the training data has the exact log-probability of every item, [rows, items] float32 in main memory of
    each process. Log P_F of each step is the difference of the exact flows along the path. prompts_of: the prompts of
    training rows by number, of which there are `rows`. Raises InputError where the model is sharded.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        policy: TriePolicy,
        prompts_of: Callable[[Sequence[int]], PromptBatch],
        rows: int,
        batch_size: int,
        *,
        progress_bar: bool,
    ) -> None:
        if accelerator.distributed_type == DistributedType.FSDP or any(
            hasattr(parameter, "ds_id") for parameter in policy.model.parameters()
        ):
            raise InputError(
                "precompute_ref_log_probs: the model is sharded, and so is its frozen copy.",
                remedy="Leave it out.",
                field="precompute_ref_log_probs",
            )
        self.trie = policy.trie
        part = -(-rows // accelerator.num_processes)
        start = accelerator.process_index * part
        own = [row % rows for row in range(start, start + part)]
        policy.model.to(accelerator.device)
        parts = []
        for first in progress(range(0, part, batch_size), desc="reference", disable=not progress_bar or start > 0):
            batch = prompts_of(own[first : first + batch_size])
            with accelerator.autocast():
                found = policy.distribution(batch)
            parts.append(accelerator.gather(found).cpu())
        # gathered batch by batch: [processes, batch, items] each, put back into the order of the rows
        shared = [p.unflatten(0, (accelerator.num_processes, -1)) for p in parts]
        self.table = torch.cat(shared, 1).flatten(0, 1)[:rows]  # [rows, items]

    def log_probs(self, prompts: PromptBatch, items: Tensor) -> Tensor:
        """Of every step to items [B, K]: [B, K, L]."""
        assert prompts.row_numbers is not None  # since the config numbers the rows
        log_prob = self.table[prompts.row_numbers].to(items.device)
        # items that share a leaf have its probability each, which is to be counted once
        shared = self.trie.items_below[self.trie.leaf_of_item]
        log_flow = exact_log_flow(log_prob - shared.log(), self.trie)
        return log_flow.gather(1, self.trie.path(items).flatten(1)).view(*items.shape, -1).diff(dim=-1)


def numbered(rows: Dataset) -> Dataset:
    """The training rows with the column `ROW_NUMBER`, in place of one that is there."""
    rows = as_rows("train_dataset", rows)
    return rows.remove_columns([name for name in rows.column_names if name == ROW_NUMBER]).add_column(
        ROW_NUMBER, np.arange(len(rows))
    )


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that is not trained; of a model that ZeRO-3 has sharded already, a copy as sharded."""
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return copy.deepcopy(model).eval().requires_grad_(False)
    import deepspeed

    twin: Any = auto_class(model.config).from_config(model.config, trust_remote_code=False)  # sharded as it is made
    for own, other in zip(twin.parameters(), model.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([own, other], modifier_rank=0), torch.no_grad():
            own.copy_(other)
    return twin.eval().requires_grad_(False)


def cast_frozen(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Keep a frozen copy's weights in what the policy computes with, which changes no result and halves the memory.

    Autocast casts the weights of linear layers at each forward: they are cast once. All others, and the head, which the
    losses read in float32, stay. FSDP casts every weight. DeepSpeed, whose engine casts, is not meant.
    """
    if accelerator.mixed_precision == "no":
        return
    dtype = torch.float16 if accelerator.mixed_precision == "fp16" else torch.bfloat16
    if accelerator.distributed_type == DistributedType.FSDP:
        nn.Module.to(model, dtype)
    head = model.get_output_embeddings()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head:
            layer.to(dtype)
