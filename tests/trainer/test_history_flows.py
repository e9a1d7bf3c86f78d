"""Flows along the history are those of a prompt for every prefix of it."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from interactions.prompts import ROW_NUMBER
from recommenders import ItemKNN
from samplers import TargetSampler
from trainer.micro_batch import MicroBatch
from trainer.scoring.flow_heads import flow_heads

EXACT = ["exact_tb", "exact_db", "flow_kl"]


@pytest.fixture
def dense(make_trainer, train_rows):
    """A trainer with a reward that depends on history and target; its rows are longer than what the model reads."""
    taken = np.zeros((len(train_rows), 48), np.float32)
    for user, row in enumerate(train_rows):
        taken[user, [*row["history"], row["target"]]] = 1

    def make(objective, **settings):
        return make_trainer(
            objective=objective,
            recommender_model=ItemKNN.fit(csr_matrix(taken), 10, decay=0.7),
            **{
                "flow_positions": "all",
                "rewards": {"collaborative": 1.0, "similarity": 1.0},
                "samplers": {"target": 1},
                "max_history": 4,
            }
            | settings,
        )

    return make


def first_step(trainer, rows):
    (step,), _ = trainer.get_batch_samples(iter([rows]), 1, trainer.args.device)
    items = step.trajectories.items
    return step, trainer.policy.log_probs(step.prompts, items, history=True, children=trainer.method.reads_children)


def of_one_prompt(trainer, row):
    """The objective of a single row, at the end of its prompt."""
    batch = trainer.prompts([row])
    trajectories = TargetSampler(trainer.trie).sample(batch, 1, 0)
    step = MicroBatch(batch, trajectories, trainer.method.scorer.target.score(batch, trajectories)[0], 1, 1)
    output = trainer.policy.log_probs(batch, trajectories.items, children=trainer.method.reads_children)
    return trainer.method.objective(trainer.method.inputs(step, output, flow_heads(trainer.model))).loss.item()


@pytest.mark.parametrize("objective", EXACT)
def test_the_loss_of_a_history_is_that_of_a_prompt_for_each_of_its_prefixes(objective, dense, train_rows, monkeypatch):
    monkeypatch.setattr("trainer.scoring.history_flows.CHUNK", 3)  # several parts
    trainer = dense(objective)
    of_length = {len(row["history"]): row for row in trainer.train_dataset.to_list()}
    rows = trainer.rows([of_length[length] for length in (2, 4, 8)], 0)
    step, output = first_step(trainer, rows)
    total = 0.0
    for row in rows:
        items = row["history"][-4:]
        for end in range(1, len(items)):
            total += of_one_prompt(
                trainer, {"history": items[:end], "target": items[end], "user_items": row["user_items"]}
            )
    assert step.scores.history.mask.sum() == sum(min(len(row["history"]), 4) - 1 for row in rows)
    assert trainer.method.history_loss(step.scores.history, output)[0].item() == pytest.approx(total, rel=1e-4)
    both = trainer.method.loss(step, output, flow_heads(trainer.model)).loss.item()
    ends = np.mean([of_one_prompt(trainer, row | {"history": row["history"][-4:]}) for row in rows])
    assert both == pytest.approx(ends + total / step.num_targets, rel=1e-4)


def test_a_run_matches_flows_along_the_history_whatever_sft_does(dense, train_rows):
    trainer = dense("flow_kl", sft_weight=0.0, max_steps=30, per_device_train_batch_size=8)
    trainer.train()
    losses = [record["objective/history_loss"] for record in trainer.state.log_history if "loss" in record]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_flows_that_are_kept_are_those_computed_anew_and_each_row_is_asked_once(dense, train_rows):
    logged, asked = {}, {}
    for keep in (False, True):
        trainer = dense("flow_kl", keep_flows=keep, max_steps=20, per_device_train_batch_size=8, name=f"keep_{keep}")
        whole, asked[keep] = trainer.method.scorer.target.reward.catalog, []

        def catalog(batch, whole=whole, seen=asked[keep]):
            seen.extend(batch.users)
            return whole(batch)

        trainer.method.scorer.target.reward.catalog = catalog
        trainer.train()  # 4 epochs of 40 rows
        logged[keep] = [record for record in trainer.state.log_history if "loss" in record]
    for name in ("loss", "reward/mean", "reward/target_mass", "reward/floor_share", "flow/divergence"):
        of_kept, anew = ([record[name] for record in logged[keep]] for keep in (True, False))
        assert of_kept == pytest.approx(anew, rel=1e-5)
    targets_and_prefixes = sum(min(len(row["history"]), 4) for row in train_rows)
    assert len(asked[True]) == targets_and_prefixes and len(asked[False]) == 4 * targets_and_prefixes


def test_beside_drawn_trajectories_only_the_history_is_kept(dense, train_rows):
    trainer = dense("flow_kl", keep_flows=True, samplers={"target": 1, "random": 3})
    step, _ = first_step(trainer, trainer.rows(trainer.train_dataset.select(range(4)).to_list(), 0))
    assert step.scores.flows.log_flow.shape[:2] == (4, 4)


def test_what_is_kept_does_not_depend_on_the_order_of_the_rows(dense, train_rows, monkeypatch):
    monkeypatch.setattr("trainer.scoring.row_cache.GROUP", 3)
    anew, kept, other = (
        dense("flow_kl", keep_flows=keep, name=str(place)) for place, keep in enumerate([False, True, True])
    )
    rows = kept.rows(kept.train_dataset.to_list(), 0)
    kept.method.scorer.history_target(kept.prompts(rows))
    for row in reversed(rows):
        batch = kept.prompts([row])
        first, second, expected = (trainer.method.scorer.history_target(batch) for trainer in (kept, other, anew))
        assert torch.equal(first.child_log_flow, second.child_log_flow) and torch.equal(first.log_flow, second.log_flow)
        torch.testing.assert_close(first.child_log_flow[first.mask], expected.child_log_flow[expected.mask])
        torch.testing.assert_close(first.log_flow[first.mask], expected.log_flow[expected.mask])
        of_target, again = (trainer.method.scorer.kept_target.score(batch)[0] for trainer in (kept, other))
        assert torch.equal(of_target.flows.child_log_flow, again.flows.child_log_flow)
        assert torch.equal(of_target.reward, again.reward)


def test_histories_of_one_item_have_no_flows_to_match(dense, train_rows):
    trainer = dense("flow_kl")
    one, other = ({"user": "u0", ROW_NUMBER: n, "history": [3 + n], "target": 8 + n} for n in (0, 1))
    rows = trainer.rows([one, other], 0)
    step, output = first_step(trainer, rows)
    loss = trainer.method.history_loss(step.scores.history, output)[0]
    assert loss.item() == 0 and torch.isfinite(torch.autograd.grad(loss, [*trainer.model.parameters()][:1])[0]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "tb"}, "flow_positions: all needs exact flows, and tb has none. Use flow_kl."),
        ({"objective": "flow_kl", "sft_positions": "target"}, "flow_positions: all reads the history as sft_positions"),
        ({"objective": "flow_kl", "reference_weight": 1.0}, "would ask a policy for every item after every prefix"),
        ({"objective": "flow_kl", "rewards": {"likelihood": 1.0}}, "Leave out reference_weight and the reward likel"),
        ({"objective": "flow_kl", "keep_flows": True, "reward_floor_end": 1e-4}, "Leave out reward_floor_end."),
        ({"objective": "flow_kl", "keep_flows": True, "flow_positions": "target"}, "keep_flows keeps flows along whol"),
    ],
)
def test_what_cannot_be_matched_along_the_history_is_one_sentence(settings, message, dense):
    with pytest.raises(ValueError, match=message):
        dense(**settings)
