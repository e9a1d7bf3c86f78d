"""The frozen copy that objectives compare with computes what the policy did when training began."""

import pytest
import torch
from transformers import TrainingArguments

from catalog.errors import InputError
from policy import inference
from tests.raising import raises
from trainer import DPOTrainer, GFlowNetConfig


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "t5"])
def test_under_autocast_a_copy_in_half_the_memory_is_the_policy_to_the_bit(kind, make_trainer):
    settings = {"samplers": {"target": 1, "random": 2}, "sft_positions": "target"}
    trainer = make_trainer(DPOTrainer, model={"kind": kind}, bf16=True, **settings)
    trainer.accelerator.prepare_model(trainer.model)  # as training does
    batch = trainer.rows.prompts_of(range(4))
    items = torch.arange(12).view(4, 3)
    with inference(trainer.model):
        policy = trainer.policy.log_probs(batch, items).log_pf
    copy = trainer.method.reference
    assert torch.equal(copy.log_probs(batch, items), policy)
    copied, whole = (sum(p.nbytes for p in model.parameters()) for model in (copy.policy.model, trainer.model))
    assert copied < 0.7 * whole
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_an_engine_on_the_gpu_that_trains_cannot_draw_ahead(tmp_path, monkeypatch):
    ahead = {"output_dir": str(tmp_path), "use_vllm": True, "rollout_staleness": 1}
    GFlowNetConfig(**ahead)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cuda"))
    with raises(InputError, field="rollout_staleness", value=1):
        GFlowNetConfig(**ahead)
    GFlowNetConfig(**ahead | {"vllm_mode": "server"})
