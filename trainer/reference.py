"""The policy that training starts from, frozen."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from interactions.prompts import PromptBatch
from policy import CausalPolicy, inference

if TYPE_CHECKING:
    from trainer.rollout_trainer import RolloutTrainer


class Reference:
    """P_ref: the model without its adapters under LoRA, else a frozen copy, which ZeRO-3 shards like the model.

    policy: of the model or the copy. without_adapters: entered around each forward.
    """

    def __init__(
        self, policy: CausalPolicy, without_adapters: Callable[[], AbstractContextManager] = nullcontext
    ) -> None:
        self.policy, self._without_adapters = policy, without_adapters

    @classmethod
    def of(cls, trainer: "RolloutTrainer", frozen: PreTrainedModel | None) -> "Reference":
        """frozen: the copy, None for a model with adapters."""
        if frozen is None:
            return cls(trainer.loss_policy(trainer.model), trainer.model.disable_adapter)
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


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that is not trained; of a model that ZeRO-3 has sharded already, a copy as sharded."""
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return copy.deepcopy(model).eval().requires_grad_(False)
    import deepspeed

    twin: Any = AutoModelForCausalLM.from_config(model.config)  # sharded as it is made
    for own, other in zip(twin.parameters(), model.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([own, other], modifier_rank=0), torch.no_grad():
            own.copy_(other)
    return twin.eval().requires_grad_(False)
