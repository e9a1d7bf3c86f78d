"""Models with adapters."""

import pytest
from torch import nn


@pytest.fixture
def with_lora(make_model):
    """A small model with adapters that are not zero."""
    import peft

    def make(kind="qwen3", tied=False, adapters=("default",), **settings):
        model = make_model(kind, tie_word_embeddings=tied)
        config = peft.LoraConfig(r=4, lora_alpha=12, init_lora_weights=False, **settings)
        model = peft.get_peft_model(model, config)
        for name in adapters[1:]:
            model.add_adapter(name, config)
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                nn.init.normal_(parameter, std=0.2)
        return model.eval()

    return make
