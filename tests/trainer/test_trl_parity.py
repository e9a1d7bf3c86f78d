"""With `normalization: vocabulary`, losses and gradients are those of TRL's own trainers on the same model and rows."""

import copy
from dataclasses import replace

import pytest
import torch
import trl
from datasets import Dataset

from trainer import DPOTrainer, GRPOTrainer, SFTTrainer

PLAIN = dict(use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, per_device_train_batch_size=4)
ROWS = 4  # of different lengths, so that ours are padded on the left and TRL's on the right


def micro_batch(trainer, count=ROWS):
    rows = [trainer.train_dataset[i] for i in range(count)]
    (step,), _ = trainer.get_batch_samples(iter([rows]), 1, trainer.args.device)
    return step


def token_ids(trainer, step):
    """Prompts without their padding, and the codes of every trajectory: lists of ids."""
    prompts = step.prompts
    texts = [ids[mask.bool()].tolist() for ids, mask in zip(prompts.input_ids, prompts.attention_mask, strict=True)]
    return texts, trainer.tokens[trainer.trie.path(step.trajectories.items)[..., 1:]].tolist()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(ours, trainer, theirs, twin):
    """Two losses, and the gradients of the models under them."""
    own, other = gradients(trainer.model, ours), gradients(twin, theirs)
    assert max(gradient.abs().max().item() for gradient in own.values()) > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for name, gradient in other.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-5, rtol=1e-5)


def shifted(model, seed=5):
    """Other weights, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("positions", ["target", "all"])
def test_sft(positions, make_trainer, tokenizer, tmp_path):
    trainer = make_trainer(SFTTrainer, normalization="vocabulary", sft_positions=positions)
    step, levels = micro_batch(trainer), trainer.trie.levels
    prompts, codes = token_ids(trainer, step)
    rows = []
    for prompt, (code, *_) in zip(prompts, codes, strict=True):
        ids = prompt + code
        # "all" learns every item but the first, which has nothing before it
        context = 1 + levels if positions == "all" else len(prompt)
        rows.append({"input_ids": ids, "labels": [-100] * context + ids[context:]})
    twin = copy.deepcopy(trainer.model)
    config = trl.SFTConfig(output_dir=str(tmp_path), max_length=None, loss_type="nll", **PLAIN)
    theirs = trl.SFTTrainer(twin, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    loss = theirs.compute_loss(twin, theirs.data_collator(rows))
    # TRL means over codes; we sum those of an item and mean over items
    assert_equal(trainer.compute_loss(trainer.model, step), trainer, levels * loss, twin)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_dpo(loss_type, make_trainer, tokenizer, tmp_path):
    samplers = {"target": 1, "random": 1}
    trainer = make_trainer(DPOTrainer, normalization="vocabulary", samplers=samplers, loss_type=loss_type, beta=0.3)
    shifted(trainer.model)
    step = micro_batch(trainer)
    prompts, codes = token_ids(trainer, step)
    pairs = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, (chosen, rejected) in zip(prompts, codes, strict=True)
    ]
    twin, reference = copy.deepcopy(trainer.model), copy.deepcopy(trainer.method.reference.policy.model)
    some = Dataset.from_list(
        [{"prompt": "<a_0>", "chosen": "<a_1>", "rejected": "<a_2>"}]
    )  # its own tokens end with EOS
    config = trl.DPOConfig(output_dir=str(tmp_path), beta=0.3, loss_type=loss_type, max_length=None, **PLAIN)
    theirs = trl.DPOTrainer(twin, reference, config, train_dataset=some, processing_class=tokenizer)
    loss = theirs.compute_loss(twin, theirs.data_collator(pairs))
    ours = trainer.compute_loss(trainer.model, step)
    assert abs(ours.item() - (torch.log(torch.tensor(2.0)) if loss_type == "sigmoid" else (1 / 0.6) ** 2)) > 0.01
    assert_equal(ours, trainer, loss, twin)


@pytest.mark.parametrize(
    ("beta", "scale_rewards", "corrected", "old"),
    [(0.0, "group", True, False), (0.2, "none", False, False), (0.2, "group", True, True)],
)
def test_grpo(beta, scale_rewards, corrected, old, make_trainer, tokenizer, tmp_path):
    """old: the trajectories were drawn by other weights, so that ratios differ from 1 and some are clipped."""
    count = 4
    trainer = make_trainer(
        GRPOTrainer,
        rewards={"similarity": 1.0},
        samplers={"policy": count},
        normalization="vocabulary",
        beta=beta,
        scale_rewards=scale_rewards,
        use_bias_correction_kl=corrected,
    )
    step = micro_batch(trainer)
    shifted(trainer.model)
    prompts, codes = token_ids(trainer, step)
    behavior = trainer.loss_policy(trainer.model).log_probs(step.prompts, step.trajectories.items).log_pf.detach()
    behavior = behavior + 0.3 * torch.randn(behavior.shape, generator=torch.Generator().manual_seed(0))
    if old:
        older = replace(step.trajectories, log_pf=behavior, age=torch.ones_like(step.trajectories.age))
        step = replace(step, trajectories=older)
    reward = step.scores.reward.flatten().tolist()
    rows = [{"prompt": f"<a_0> {row}"} for row in range(ROWS)]

    def drawn(texts, trainer):
        """What TRL's own generation would return: our trajectories."""
        flat = [code for group in codes for code in group]
        return {
            "prompt_ids": [prompt for prompt in prompts for _ in range(count)],
            "completion_ids": flat,
            "logprobs": [[0.0] * len(code) for code in flat],
        }

    twin = copy.deepcopy(trainer.model)
    if beta:  # TRL loads its reference from where the model says that it comes from
        trainer.method.reference.policy.model.save_pretrained(tmp_path / "reference")
        twin.config._name_or_path = str(tmp_path / "reference")
    config = trl.GRPOConfig(
        output_dir=str(tmp_path),
        **PLAIN | {"per_device_train_batch_size": ROWS * count},
        num_generations=count,
        max_completion_length=trainer.trie.levels,
        beta=beta,
        scale_rewards=scale_rewards,
        use_bias_correction_kl=corrected,
        disable_dropout=True,
    )
    theirs = trl.GRPOTrainer(
        twin,
        lambda prompts, completions, **columns: reward,
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        rollout_func=drawn,
    )
    theirs.current_gradient_accumulation_steps = 1
    inputs = theirs._generate_and_score_completions([row for row in rows for _ in range(count)])
    if old:
        inputs["old_per_token_logps"] = behavior.flatten(0, 1)
    ours = trainer.compute_loss(trainer.model, step)
    assert_equal(ours, trainer, theirs.compute_loss(twin, inputs), twin)
