"""The policy that training starts from, frozen."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import trange
from transformers import PreTrainedModel

from catalog import Trie, exact_log_flow
from catalog.errors import InputError
from interactions.prompts import PromptBatch
from policy import TriePolicy, auto_class, inference
from trainer.front_door import as_rows

if TYPE_CHECKING:
    from trainer.rollout_trainer import RolloutTrainer

ROW = "row_number"
"""The column by which a table finds what it has of a training row."""


class Reference:
    """P_ref: the model without its adapters under LoRA, else a frozen copy, which ZeRO-3 shards like the model.

    policy: of the model or the copy. without_adapters: entered around each forward.
    """

    def __init__(
        self, policy: TriePolicy, without_adapters: Callable[[], AbstractContextManager] = nullcontext
    ) -> None:
        self.policy, self._without_adapters = policy, without_adapters

    @classmethod
    def from_trainer(cls, trainer: "RolloutTrainer", frozen: PreTrainedModel | None) -> "Reference":
        """frozen: the copy that `frozen_copy` made before training, None for a model with adapters."""
        if frozen is None:
            adapted: Any = trainer.model
            return cls(trainer.loss_policy(adapted), adapted.disable_adapter)
        if trainer.is_deepspeed_enabled:
            from trl.models.utils import prepare_deepspeed

            frozen = prepare_deepspeed(frozen, trainer.accelerator)
        return cls(trainer.loss_policy(frozen.to(trainer.args.device)))

    def log_probs(self, prompts: PromptBatch, items: Tensor) -> Tensor:
        """Of every step to items [B, K]: [B, K, L]."""
        with self._without_adapters(), inference(self.policy.model):
            return self.policy.log_probs(prompts, items).log_pf

    def distribution(self, prompts: PromptBatch) -> Tensor:
        """The exact log-probability of every item: [B, items]."""
        with self._without_adapters():
            return self.policy.distribution(prompts)


class PrecomputedReference:
    """P_ref from a table that is filled once, before training, so that no second model is kept.

    Every row of the training data has the exact log-probability of every item, [rows, items] float32 in main memory of
    each process. Log P_F of each step is the difference of the exact flows along the path. Raises InputError where the
    model is sharded.
    """

    def __init__(self, trainer: "RolloutTrainer", trie: Trie) -> None:
        if any(hasattr(parameter, "ds_id") for parameter in trainer.model.parameters()) or trainer.is_fsdp_enabled:
            raise InputError(
                "precompute_ref_log_probs: the model is sharded, and so is its frozen copy.",
                remedy="Leave it out.",
                field="precompute_ref_log_probs",
            )
        self.trie = trie
        accelerator, rows = trainer.accelerator, trainer.train_dataset
        part = -(-len(rows) // accelerator.num_processes)
        start, size = accelerator.process_index * part, trainer.args.per_device_eval_batch_size
        own = rows.select([row % len(rows) for row in range(start, start + part)])
        trainer.model.to(trainer.args.device)
        parts = []
        for first in trange(0, part, size, desc="reference", disable=trainer.args.disable_tqdm or start > 0):
            batch = trainer.prompts(own.select(range(first, min(first + size, part))).to_list())
            parts.append(accelerator.gather(trainer.policy.distribution(batch.to(trainer.args.device))).cpu())
        # gathered batch by batch: [processes, batch, items] each, put back into the order of the rows
        shared = [p.unflatten(0, (accelerator.num_processes, -1)) for p in parts]
        self.table = torch.cat(shared, 1).flatten(0, 1)[: len(rows)]  # [rows, items]

    def log_probs(self, prompts: PromptBatch, items: Tensor) -> Tensor:
        """Of every step to items [B, K]: [B, K, L]."""
        log_prob = self.table[prompts.columns[ROW]].to(items.device)
        # items that share a leaf have its probability each, which is to be counted once
        shared = self.trie.items_below[self.trie.leaf_of_item]
        log_flow = exact_log_flow(log_prob - shared.log(), self.trie)
        return log_flow.gather(1, self.trie.path(items).flatten(1)).view(*items.shape, -1).diff(dim=-1)


def numbered(rows: Dataset) -> Dataset:
    """The training rows with the column `ROW`."""
    return as_rows("train_dataset", rows).add_column(ROW, list(range(len(rows))))


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
