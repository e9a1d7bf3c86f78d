"""What must hold of GFlowNet runs beside what holds of every run."""

from pathlib import Path

import numpy as np
import pytest
import torch

from catalog import SOURCES
from recommenders import ItemKNN
from trainer import GFlowNetConfig
from trainer.objectives import OBJECTIVES, tb
from trainer.scoring.flow_heads import flow_heads


class ItemValue:
    """Rewards from 1 to 9 that depend on the item alone."""

    def __call__(self, batch, trajectories):
        return 1.0 + (trajectories.items % 9).float()

    def catalog(self, batch):
        return (1.0 + (torch.arange(48) % 9).float()).expand(len(batch), -1)


def recommender(rows):
    from scipy.sparse import csr_matrix

    seen = np.zeros((len(rows), 48), np.float32)
    for user, row in enumerate(rows):
        seen[user, [*row["history"], row["target"]]] = 1
    return ItemKNN.fit(csr_matrix(seen), 10)


def micro_batch(trainer, count=4):
    """The first micro-batch of a step, and what the policy says of it."""
    rows = [trainer.train_dataset[i] for i in range(count)]
    (step,), _ = trainer.get_batch_samples(iter([rows]), 1, trainer.args.device)
    output = trainer.policy.log_probs(step.prompts, step.trajectories.items, children=trainer.method.reads_children)
    return step, output


def objective_inputs(trainer, step, output):
    return trainer.method.inputs(step, output, flow_heads(trainer.model))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["tb", "flow_kl"])  # test_convergence.py has all, and no trainer
def test_the_policy_comes_to_sample_items_in_proportion_to_their_reward(make_trainer, objective):
    trainer = make_trainer(
        rewards=ItemValue(),
        objective=objective,
        samplers={"target": 1, "random": 4, "policy": 3},
        max_steps=300,
        learning_rate=5e-3,
        flow_weight=100.0,
        flow_lr_multiplier=2,
        warmup_steps=10,
        per_device_train_batch_size=8,
        logging_steps=300,
        lr_scheduler_type="linear",
    )
    before = trainer.method.held_out_metrics(trainer.eval_dataset, 8)
    trainer.train()
    after = trainer.method.held_out_metrics(trainer.eval_dataset, 8)
    assert before["tv"] > 0.5 and after["tv"] < 0.05
    assert after["reward_correlation"] > 0.95 and abs(after["kl"]) < 0.02
    assert after["effective_items"] == pytest.approx(after["target_effective_items"], rel=0.05)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_every_objective_trains_and_its_loss_falls(objective, kind, make_trainer):
    trainer = make_trainer(
        rewards=ItemValue(),
        objective=objective,
        samplers={"target": 1, "random": 7},
        model={"kind": kind},
        max_steps=25,
        flow_weight=10.0,
    )
    trainer.train()
    loss = [record["objective/loss"] for record in trainer.state.log_history if "objective/loss" in record]
    assert np.mean(loss[-5:]) < 0.8 * np.mean(loss[:5])


@pytest.mark.parametrize("objective", ["exact_tb", "exact_db", "flow_kl"])
def test_exact_objectives_get_the_flows_of_the_whole_catalog(objective, make_trainer):
    trainer = make_trainer(rewards=ItemValue(), objective=objective)
    step, output = micro_batch(trainer)
    inputs = objective_inputs(trainer, step, output)
    log_reward = ItemValue().catalog(range(4)).log()
    torch.testing.assert_close(inputs.log_flow[..., 0], log_reward.logsumexp(-1, keepdim=True).expand(-1, 4))
    torch.testing.assert_close(inputs.log_reward, log_reward.gather(1, step.trajectories.items))
    if objective == "flow_kl":
        torch.testing.assert_close(inputs.child_log_flow.logsumexp(-1), inputs.log_flow[..., :-1])
        torch.testing.assert_close(inputs.child_log_pf.exp().sum(-1), torch.ones(4, 4, trainer.trie.levels))


def test_exact_tb_is_tb_with_the_true_log_z(make_trainer):
    trainer = make_trainer(rewards=ItemValue(), objective="exact_tb")
    step, output = micro_batch(trainer)
    log_z = torch.tensor([1.0 + i % 9 for i in range(48)]).sum().log()
    residual = log_z + output.log_pf.sum(-1) - step.scores.reward.log()
    inputs = objective_inputs(trainer, step, output)
    torch.testing.assert_close(tb(inputs).loss, residual.pow(2).mean(-1))


@pytest.mark.parametrize("objective", ["tb", "exact_db"])
def test_with_a_reference_an_indifferent_reward_asks_for_the_reference_itself(objective, make_trainer):
    class Same(ItemValue):
        def catalog(self, batch):
            return torch.full((len(batch), 48), 2.0)

        def __call__(self, batch, trajectories):
            return torch.full(trajectories.items.shape, 2.0)

    trainer = make_trainer(rewards=Same(), objective=objective, reference_weight=1.0)
    found = trainer.method.held_out_metrics(trainer.eval_dataset, 8)
    assert found["tv"] < 1e-5
    step, output = micro_batch(trainer)
    expected = np.log(2.0) + output.log_pf.sum(-1)
    torch.testing.assert_close(step.scores.log_reward, expected)
    # else P_ref of all items would be asked for a few
    assert trainer.method.scorer.target.whole == ("dense" if objective == "exact_db" else None)
    if objective == "exact_db":
        assert trainer.method.objective(objective_inputs(trainer, step, output)).loss.max() < 1e-8
    trainer.train()  # which moves the policy, and not the reference
    assert trainer.method.held_out_metrics(trainer.eval_dataset, 8)["tv"] > 1e-3


def test_a_reward_without_a_catalog_is_matched_relative_to_the_reference_too(make_trainer):
    trainer = make_trainer(rewards=ItemValue().__call__, objective="vargrad", reference_weight=0.5)
    step, output = micro_batch(trainer)
    torch.testing.assert_close(step.scores.log_reward, step.scores.reward.log() + 0.5 * output.log_pf.sum(-1))


def test_the_shares_of_the_reward_are_logged_and_sum_to_one(make_trainer):
    trainer = make_trainer(rewards=None, reward_floor=0.01, reward_temperature=0.5)
    trainer.train()
    for record in trainer.state.log_history:
        if "loss" in record:
            shares = [record[f"reward/{name}_mass"] for name in ("target", "floor", "rest")]
            assert sum(shares) == pytest.approx(1.0) and min(shares) > 0
    # hit + similarity of the target is 2, at temperature 1/2 it weighs 4
    step, _ = micro_batch(trainer)
    everything = trainer.method.scorer.target.reward.catalog(step.prompts)
    expected = (4.0 / everything.clamp(min=0.01).pow(2).sum(-1)).mean().item()
    assert trainer.state.log_history[-2]["reward/target_mass"] == pytest.approx(expected, rel=0.3)


def test_floor_and_temperature_go_from_start_to_end(tmp_path):
    config = GFlowNetConfig(
        output_dir=str(tmp_path), use_cpu=True, reward_temperature=4.0, reward_temperature_end=1.0, reward_floor=0.1
    )
    assert [config.at("reward_temperature", t) for t in (0.0, 0.5, 1.0)] == [4.0, 2.0, 1.0]
    assert config.at("reward_floor", 0.7) == 0.1


def test_a_source_of_weight_0_teaches_nothing(make_trainer):
    losses = {}
    for weights in ({}, {"random": 0.0}):
        trainer = make_trainer(
            rewards=ItemValue(), objective="exact_tb", samplers={"target": 1, "random": 3}, source_weights=weights
        )
        step, output = micro_batch(trainer)
        losses[bool(weights)] = trainer.method.objective(objective_inputs(trainer, step, output)).loss
    alone = make_trainer(rewards=ItemValue(), objective="exact_tb", samplers={"target": 1})
    step, output = micro_batch(alone)
    torch.testing.assert_close(losses[True], alone.method.objective(objective_inputs(alone, step, output)).loss)
    assert not torch.allclose(losses[True], losses[False])


def test_accumulation_changes_nothing_for_any_mixture(make_trainer):
    """8 x 1 and 1 x 8; trajectories come from the row alone here, since random draws differ between micro-batches."""
    settings = dict(
        rewards=ItemValue(),
        objective="exact_db",
        samplers={"target": 1, "interactions": 9},
        optim="sgd",
        learning_rate=0.1,
    )
    whole = make_trainer(per_device_train_batch_size=8, name="whole", **settings)
    parts = make_trainer(per_device_train_batch_size=1, gradient_accumulation_steps=8, name="parts", **settings)
    whole.train(), parts.train()
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_every_source_of_a_recipe_is_drawn_from(make_trainer, train_rows, tmp_path):
    counts = {"target": 1, "interactions": 1, "random": 1, "replay": 1}
    learned = {"curriculum": {"count": 1, "pool": 20}, "confidence": {"count": 1, "pool": 8}}
    trainer = make_trainer(
        samplers=counts | learned | {"policy": {"count": 2, "beams": True}},
        rewards={"hit": 1.0, "collaborative": 0.5, "similarity": 0.5},
        recommender_model=recommender(train_rows),
        max_steps=30,
        trajectories=8,
    )
    trainer.train()
    step, _ = micro_batch(trainer)
    names = [[SOURCES[i] for i in row if i >= 0] for row in step.trajectories.source.tolist()]
    assert all({"target", "curriculum", "confidence", "policy"} <= set(row) for row in names)
    assert any("replay" in row for row in names) and any("interactions" in row for row in names)


def test_a_recommender_does_not_see_the_users_own_sequence_on_training_rows(make_trainer, train_rows):
    trainer = make_trainer(recommender_model=recommender(train_rows), rewards={"collaborative": 1.0})
    step, _ = micro_batch(trainer)
    for row, own in zip(train_rows.to_list(), step.prompts.user_items, strict=False):
        assert set(own) == {*row["history"], row["target"]}
    held_out = trainer.prompts(train_rows.to_list()[:4])
    reward = trainer.method.scorer.reward
    assert not torch.allclose(reward.catalog(step.prompts), reward.catalog(held_out))


def test_an_evaluation_reports_the_distance_to_the_reward(make_trainer):
    trainer = make_trainer(rewards=ItemValue(), match_rows=5)
    found = trainer.evaluate()
    batch = trainer.prompts(trainer.eval_dataset.to_list()[:5])
    target = torch.tensor([1.0 + i % 9 for i in range(48)])
    expected = 0.5 * (trainer.policy.distribution(batch).exp() - target / target.sum()).abs().sum(-1).mean()
    assert found["eval_tv"] == pytest.approx(expected.item(), abs=1e-5)
    levels = sum(found[f"eval_entropy_{level}"] for level in range(1, trainer.trie.levels + 1))
    assert 0 < levels < np.log(48)


def test_a_reward_that_fails_in_the_middle_leaves_a_run_that_resumes(make_trainer):
    calls = []

    def fragile(batch, trajectories):
        calls.append(1)
        if len(calls) == 5 and not healed:
            raise ConnectionError("the scoring service is gone")
        return torch.ones(trajectories.items.shape)

    healed = False
    trainer = make_trainer(rewards=fragile, max_steps=6, save_strategy="steps", save_steps=100, seed=3)
    with pytest.raises(RuntimeError, match=r"reward.*users.*'u\d+'.*scoring service is gone"):
        trainer.train()
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-3"  # the check before training was the first call
    assert checkpoint.is_dir()
    healed = True
    again = make_trainer(rewards=fragile, max_steps=6, save_strategy="no", seed=3)
    again.train(resume_from_checkpoint=str(checkpoint))
    whole = make_trainer(rewards=fragile, max_steps=6, name="whole", seed=3)
    whole.train()
    for ours, theirs in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_replay_memory_of_nobody_is_refused(make_trainer, train_rows):
    with pytest.raises(ValueError, match="no column user"):
        make_trainer(samplers={"target": 1, "replay": 2}, rows=train_rows.remove_columns("user"))


def test_what_an_exact_objective_cannot_do_without_is_named(make_trainer):
    with pytest.raises(ValueError, match="exact_tb needs the reward of the whole catalog"):
        make_trainer(rewards=ItemValue().__call__, objective="exact_tb")


def test_a_catalog_score_that_disagrees_with_the_reward_is_refused(make_trainer):
    class Odd(ItemValue):
        def catalog(self, batch):
            return super().catalog(batch) + 1

    with pytest.raises(ValueError, match="Make the two agree"):
        make_trainer(rewards=Odd())
