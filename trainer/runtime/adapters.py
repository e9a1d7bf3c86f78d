"""LoRA on a backbone whose vocabulary holds the catalog's codes."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ROWS = ".modules_to_save."
"""In the name of a parameter of which only the codes' rows are trained; it must not decay, or the others would."""


def adapt(model: PreTrainedModel, config: Any, tokens: Tensor, *, checkpointing: bool) -> nn.Module:
    """The model with LoRA (a `peft.LoraConfig`), and of its embeddings the rows of `tokens` trained in full.

    The codes are new words, for which a low-rank change of old ones is not enough; every other row keeps its bits.
    checkpointing: whether activations are computed again in the backward. An embedding's `trained_rows` names these
    rows, so that they can be sent to a rollout server without the others.
    """
    from peft import get_peft_model

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {name.split(".")[-1] for name, module in model.named_modules() if module in ends}
    kept = names | set(config.modules_to_save or ())
    # without this peft warns that it sets tied embeddings apart, and does
    tied = bool(model.config.tie_word_embeddings)
    adapted = get_peft_model(model, replace(config, modules_to_save=sorted(kept), ensure_weight_tying=tied))
    numbers = tokens.unique().cpu()
    rows = torch.zeros(model.config.vocab_size, 1).index_fill(0, numbers, 1.0)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and name.split(ROWS)[0].split(".")[-1] in names and ROWS in name:
            parameter.register_hook(lambda gradient: gradient * rows.to(gradient))
            parameter.trained_rows = numbers  # type: ignore[attr-defined]
    if checkpointing:
        adapted.enable_input_require_grads()  # type: ignore[operator]  # or nothing below the first checkpoint is trained
    return adapted
