"""What holds of every method: one interface, one reference policy, and what each of them learns."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from peft import LoraConfig
from torch.nn.functional import softplus

from catalog import PADDING, SOURCES
from trainer import METHODS, DPOTrainer, GRPOTrainer, RecommenderTrainer, RolloutConfig, SDPOTrainer, SFTTrainer
from trainer.objectives import FlowInputs, LossOutput, sdpo

OBJECTIVE_METHODS = [kind for kind, _ in METHODS.values() if kind is not SFTTrainer]
PAIRS = {"target": 1, "random": 7}


class Even:
    """1 for items with even numbers."""

    def __call__(self, batch, trajectories):
        return (trajectories.items % 2 == 0).float()


def first_step(trainer, count=8):
    rows = [trainer.train_dataset[i] for i in range(count)]
    (step,), _ = trainer.get_batch_samples(iter([rows]), 1, trainer.args.device)
    return step


def logged(trainer, name):
    return [record[name] for record in trainer.state.log_history if name in record]


@pytest.mark.parametrize("kind", [DPOTrainer, SDPOTrainer])
def test_preferences_come_to_be_learned(kind, make_trainer):
    trainer = make_trainer(kind, samplers=PAIRS, max_steps=60, learning_rate=5e-3, per_device_train_batch_size=8)
    before = trainer.evaluate()["eval_recall@10"]
    trainer.train()
    margins, accuracy = logged(trainer, "rewards/margins"), logged(trainer, "rewards/accuracies")
    assert margins[0] == pytest.approx(0, abs=1e-6)  # the reference is the policy that training starts from
    assert margins[-1] > 1 and sum(accuracy[-10:]) / 10 > 0.9
    assert trainer.evaluate()["eval_recall@10"] > before + 0.2


@pytest.mark.parametrize("early_clip", [None, 0.1])
def test_grpo_raises_the_reward_of_what_the_policy_draws(early_clip, make_trainer):
    trainer = make_trainer(
        GRPOTrainer, rewards=Even(), early_clip=early_clip, max_steps=40, learning_rate=5e-3, beta=0.01
    )
    trainer.train()
    reward = logged(trainer, "reward/mean")
    assert sum(reward[:3]) / 3 < 0.7 and sum(reward[-3:]) / 3 > 0.9
    assert logged(trainer, "kl")[0] == pytest.approx(0, abs=1e-6) and logged(trainer, "kl")[-1] > 0.01


@pytest.mark.parametrize("kind", OBJECTIVE_METHODS)
def test_accumulation_changes_nothing(kind, make_trainer):
    # all items of a row, since random draws would differ between micro-batches
    settings = dict(samplers={"target": 1, "interactions": 9}, optim="sgd", learning_rate=0.1, rewards=Even())
    losses = []
    for size in (8, 2):
        trainer = make_trainer(
            kind, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, name=str(size), **settings
        )
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-6)


def test_the_reference_is_the_policy_at_the_start(make_trainer):
    trainer = make_trainer(DPOTrainer, samplers=PAIRS, learning_rate=1e-2)
    step = first_step(trainer)
    before = trainer.policy.log_probs(step.prompts, step.trajectories.items).log_pf.detach()
    trainer.train()
    after = trainer.policy.log_probs(step.prompts, step.trajectories.items).log_pf
    torch.testing.assert_close(trainer.method.reference_log_probs(step.prompts, step.trajectories), before)
    assert (after - before).abs().max() > 0.1
    assert not any(parameter.requires_grad for parameter in trainer.method.reference.policy.model.parameters())


def test_with_adapters_the_reference_is_the_model_without_them_and_no_copy(make_trainer):
    adapters = LoraConfig(r=4, target_modules="all-linear")
    trainer = make_trainer(DPOTrainer, samplers=PAIRS, learning_rate=1e-2, parts={"peft_config": adapters}, name="lora")
    plain = make_trainer(DPOTrainer, samplers=PAIRS, name="plain")  # the same seed, the same weights
    step = first_step(trainer)
    expected = plain.policy.log_probs(step.prompts, step.trajectories.items).log_pf
    trainer.train()
    torch.testing.assert_close(
        trainer.method.reference_log_probs(step.prompts, step.trajectories), expected, atol=1e-5, rtol=1e-5
    )
    after = trainer.policy.log_probs(step.prompts, step.trajectories.items).log_pf
    assert (after - expected).abs().max() > 0.1
    assert trainer.method.reference.policy.model is trainer.model


@pytest.mark.parametrize("kind", [DPOTrainer, SDPOTrainer, GRPOTrainer])
def test_a_precomputed_reference_is_the_copy_without_the_copy(kind, make_trainer):
    runs = []
    for precomputed in (False, True):
        settings = dict(samplers=PAIRS, beta=0.5, max_steps=5, precompute_ref_log_probs=precomputed)
        trainer = make_trainer(kind, rewards=Even(), name=str(precomputed), **settings)
        trainer.train()
        step = first_step(trainer)
        reference = trainer.method.reference_log_probs(step.prompts, step.trajectories)
        runs.append((logged(trainer, "loss"), reference))
    torch.testing.assert_close(runs[0], runs[1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="whole rows"):
        make_trainer(kind, precompute_ref_log_probs=True, random_cut=True, beta=0.5)


def test_over_the_vocabulary_log_probabilities_are_lower_by_the_mass_outside_the_trie(make_trainer):
    trainer = make_trainer(DPOTrainer, samplers=PAIRS, normalization="vocabulary")
    step = first_step(trainer, count=2)
    items = step.trajectories.items
    wide = trainer.loss_policy(trainer.model).log_probs(step.prompts, items).log_pf
    trie = trainer.policy.log_probs(step.prompts, items).log_pf
    logits = trainer.model(  # of the first code, of the first prompt alone
        input_ids=step.prompts.input_ids[:1], attention_mask=step.prompts.attention_mask[:1]
    ).logits[0, -1]
    token = trainer.tokens[trainer.trie.path(items[0, 0])[1]]
    assert wide[0, 0, 0].item() == pytest.approx(logits.log_softmax(-1)[token].item(), abs=1e-5)
    assert (wide < trie).all()


def test_a_negative_that_is_the_target_teaches_nothing(make_trainer):
    trainer = make_trainer(DPOTrainer, samplers={"target": 1, "random": 3})
    step = first_step(trainer)
    items = step.trajectories.items.clone()
    items[:, 1:] = items[:, :1]
    same = trainer.method.inputs(
        replace(step, trajectories=replace(step.trajectories, items=items)),
        trainer.policy.log_probs(step.prompts, items),
    )
    output = trainer.args.make_objective()(same)
    assert output.weight.tolist() == [0.0] * 8 and output.loss.tolist() == [0.0] * 8


def test_what_a_method_cannot_do_without_is_named(make_trainer):
    with pytest.raises(ValueError, match="target: 1 is missing"):
        make_trainer(DPOTrainer, samplers={"random": 2})
    with pytest.raises(ValueError, match="needs 2 trajectories per prompt"):
        make_trainer(SDPOTrainer, samplers={"target": 1})
    with pytest.raises(ValueError, match="target: 1 is missing"):
        make_trainer(GRPOTrainer, sft_weight=1.0)
    with pytest.raises(ValueError, match="beta=0"):
        make_trainer(DPOTrainer, beta=0)
    with pytest.raises(ValueError, match="No reward is given"):
        make_trainer(GRPOTrainer, rewards={})


def hinge(inputs: FlowInputs, *, margin: float) -> LossOutput:
    """The target's log-probability should be `margin` above every other trajectory's."""
    log_pf = inputs.log_pf.sum(-1)
    short = (margin - log_pf[:, :1] + log_pf).clamp(min=0).masked_fill(inputs.hit, 0.0)
    return LossOutput.per_prompt(inputs.mean(short), {})


@dataclass
class HingeConfig(RolloutConfig):
    margin: float = 2.0

    def make_objective(self):
        return partial(hinge, margin=self.margin)


def test_a_sixth_method_is_one_function_and_one_config(make_trainer, monkeypatch):
    monkeypatch.setitem(METHODS, "hinge", (RecommenderTrainer, HingeConfig))
    trainer = make_trainer(RecommenderTrainer, samplers=PAIRS, max_steps=40, learning_rate=5e-3, sft_weight=0.0)
    trainer.train()
    loss = logged(trainer, "objective/loss")
    assert sum(loss[-5:]) < 0.3 * sum(loss[:5])
    assert trainer.evaluate()["eval_recall@10"] > 0.3


def test_grpo_reads_the_log_probabilities_of_the_weights_that_drew(make_trainer):
    trainer = make_trainer(GRPOTrainer, samplers={"policy": 3, "random": 1})
    step = first_step(trainer)
    log_pf = trainer.policy.log_probs(step.prompts, step.trajectories.items)
    assert trainer.method.inputs(step, log_pf).log_pf_behavior.isnan().all()  # drawn by the current weights, or by none
    drawn = step.trajectories.source == SOURCES.index("policy")
    old = replace(step, trajectories=replace(step.trajectories, age=drawn.long()))
    behavior = trainer.method.inputs(old, log_pf).log_pf_behavior
    assert (behavior.isnan().all(-1) == ~drawn).all() and drawn.any() and PADDING not in step.trajectories.source
    torch.testing.assert_close(behavior[drawn], step.trajectories.log_pf[drawn])


def test_softmax_preference_by_hand():
    inputs = FlowInputs(
        log_pf=torch.tensor([[[-1.0], [-2.0], [-4.0]]]),
        log_reward=torch.zeros(1, 3),
        source=torch.tensor([[0, 1, 1]]),
        hit=torch.tensor([[True, False, False]]),
        log_pf_reference=torch.tensor([[[-2.0], [-2.0], [-3.0]]]),
    )  # Delta 1, 0, -1
    expected = softplus(torch.tensor([-1.0, -2.0]).exp().sum().log())  # -log sigma(-x)
    assert sdpo(inputs, beta=1.0).loss.item() == pytest.approx(expected.item())
