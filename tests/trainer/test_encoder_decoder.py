"""A T5 is trained, saved and measured as any backbone is."""

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from policy import policy_of
from trainer import METHODS, GFlowNetTrainer, SFTTrainer

T5 = {"kind": "t5"}


@pytest.mark.parametrize("kind", [kind for kind, _ in METHODS.values()])
def test_every_method_trains_it(kind, make_trainer):
    trainer = make_trainer(kind, model=T5, sft_positions="target", random_cut=True, max_steps=4)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert trainer.shared_prefix_gap < 1e-5
    assert all(torch.tensor(record["loss"]).isfinite() for record in trainer.state.log_history if "loss" in record)
    moved = [not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) - 3  # all but what a frozen norm or an unread bias may be


def test_flows_come_to_match_the_reward(make_trainer):
    class Even:
        def __call__(self, batch, trajectories):
            return (trajectories.items % 2 == 0) + 0.2

        def catalog(self, batch):
            return ((torch.arange(48) % 2 == 0) + 0.2).expand(len(batch), -1)

    settings = dict(sft_positions="target", sft_weight=0.0, objective="flow_kl", learning_rate=1e-2)
    trainer = make_trainer(GFlowNetTrainer, model=T5, rewards=Even(), max_steps=80, **settings)
    before = trainer.evaluate()["eval_tv"]
    trainer.train()
    assert trainer.evaluate()["eval_tv"] < min(0.1, before / 3)


def test_a_resumed_run_ends_as_the_uninterrupted_one(make_trainer):
    settings = dict(model=T5, sft_positions="target", samplers={"target": 1, "policy": 3}, max_steps=6)
    whole = make_trainer(name="whole", **settings)
    whole.train()
    half = make_trainer(name="half", **settings | dict(save_strategy="steps", save_steps=3))
    half.train()
    again = make_trainer(name="half", **settings | dict(save_strategy="steps", save_steps=3))
    again.train(resume_from_checkpoint=f"{half.args.output_dir}/checkpoint-3")
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_saved_is_a_plain_checkpoint(make_trainer, prompts):
    trainer = make_trainer(SFTTrainer, model=T5, sft_positions="target")
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSeq2SeqLM.from_pretrained(trainer.args.output_dir).eval()
    trainer.model.eval()
    policy = policy_of(loaded, trainer.catalog.trie, trainer.tokens)
    torch.testing.assert_close(policy.distribution(prompts), trainer.policy.distribution(prompts))


def test_gradient_checkpointing_changes_nothing(make_trainer):
    settings = dict(
        model=T5, sft_positions="target", samplers={"target": 1, "interactions": 9}, max_steps=4, optim="sgd"
    )
    losses = []
    for name, more in {"plain": {}, "checkpointed": {"gradient_checkpointing": True}}.items():
        trainer = make_trainer(name=name, **settings, **more)
        trainer.train()
        losses.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(set(losses[0])) == 4


def test_vllm_is_refused(make_trainer):
    with pytest.raises(ValueError, match="vLLM draws from decoder-only backbones and t5 is an encoder-decoder"):
        make_trainer(model=T5, sft_positions="target", samplers={"target": 1, "policy": 3}, use_vllm=True)


def test_histories_cannot_be_packed(make_trainer):
    with pytest.raises(ValueError, match="sft_positions: all needs a decoder-only backbone"):
        make_trainer(SFTTrainer, model=T5)
