"""Runs whose rewards name few items: equal to those that score every item where all are named, and at any size."""

import logging
import threading
import time

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from catalog import Catalog, word_tokenizer
from catalog.errors import InputError
from interactions.prompts import PromptBuilder
from policy import policy_of
from recommenders import GenerativeRecommender, Guide, ItemKNN, Popularity
from tests.raising import raises
from trainer import GFlowNetConfig, GFlowNetTrainer, GRPOTrainer, SFTConfig, SFTTrainer
from trainer.batches import GroupedSampler
from trainer.scoring.row_cache import GROUP

REWARDS = {"collaborative": 1.0, "similarity": 0.5, "hit": 1.0}


def knn(rows, items=48, neighbors=10):
    users = np.repeat(np.arange(len(rows)), [len(row["history"]) + 1 for row in rows])
    taken = np.concatenate([[*row["history"], row["target"]] for row in rows])
    return ItemKNN.fit(
        csr_matrix((np.ones(len(taken), np.float32), (users, taken)), (len(rows), items)), neighbors, 0.7
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "flow_kl", "samplers": {"target": 1, "curriculum": 1, "random": 1}},
        {"objective": "exact_db", "reward_temperature": 0.5, "reward_floor_end": 1e-4},
        {"objective": "tb", "samplers": {"target": 1, "random": 3}},
        {"objective": "flow_kl", "flow_positions": "all", "samplers": {"target": 1}},
        {"objective": "flow_kl", "flow_positions": "all", "samplers": {"target": 1}, "keep_flows": True},
    ],
    ids=["flow_kl", "exact_db", "tb", "all positions", "kept"],
)
def test_a_run_that_names_every_item_is_that_which_scores_every_item(settings, make_trainer, train_rows):
    logged = []
    for named in (0, 48):
        trainer = make_trainer(
            recommender_model=knn(train_rows),
            rewards=REWARDS,
            reward_items=named,
            per_device_train_batch_size=8,
            max_steps=8,  # into the second epoch, where rows are kept
            name=f"named_{named}",
            **settings,
        )
        trainer.train()
        assert trainer.method.scorer.target.whole == ("sparse" if named else "dense")
        logged.append([record for record in trainer.state.log_history if "loss" in record])
    for name in ("loss", "reward/mean", "reward/target_mass", "reward/floor_mass", "reward/rest_mass"):
        dense, sparse = ([record[name] for record in records] for records in logged)
        assert sparse == pytest.approx(dense, rel=1e-4, abs=1e-5), name
    assert max(record["reward/cut_mass"] for record in logged[1]) < 1e-5


def made_rows(users, items):
    """A few items are much more popular than most."""
    taken = (items * np.random.default_rng(1).random((users, 7)) ** 6).astype(int).tolist()
    return [{"user": f"u{user}", "history": row[:-1], "target": row[-1]} for user, row in enumerate(taken)]


@pytest.mark.parametrize("positions", ["target", "all"])
def test_at_twelve_thousand_items_the_losses_are_those_of_all_rewards(positions, make_model, tmp_path):
    items, losses = 12_000, []
    codes = np.random.default_rng(0).integers(0, 256, (items, 4))
    catalog = Catalog.from_codes([str(item) for item in range(items)], codes, on_collision="keep", sizes=(256,) * 4)
    tokenizer, rows = word_tokenizer(catalog.trie.sizes), made_rows(24, items)
    for named in (0, 400):  # more than kNN has neighbors of six items, and no more than a thirtieth of all
        config = GFlowNetConfig(
            output_dir=str(tmp_path / str(named)),
            objective="flow_kl",
            flow_positions=positions,
            rewards=REWARDS,
            samplers={"target": 1} | ({"curriculum": 2} if positions == "target" else {}),
            reward_items=named,
            match_rows=0,
            per_device_train_batch_size=8,
            max_steps=6,
            max_history=6,
            logging_steps=1,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        model = make_model("qwen3", vocab_size=len(tokenizer))
        parts = dict(train_dataset=rows, processing_class=tokenizer, catalog=catalog, recommender=knn(rows, items, 50))
        trainer = GFlowNetTrainer(model, config, **parts)
        trainer.train()
        losses.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_mass_that_is_cut_is_logged_and_said_once(make_trainer, train_rows, caplog):
    trainer = make_trainer(
        recommender_model=Popularity(torch.arange(20.0, 68.0)), rewards=REWARDS, objective="flow_kl", reward_items=5
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    said = [record.message for record in caplog.records if "Raise reward_items" in record.message]
    assert len(said) == 1 and "of its mass" in said[0]
    records = [record for record in trainer.state.log_history if "reward/cut_mass" in record]
    assert len(records) == 3 and all(0.5 < record["reward/cut_mass"] < 1 for record in records)


@pytest.mark.parametrize("named", [0, 20])
def test_a_recommender_that_answers_ahead_changes_nothing(named, make_trainer, train_rows, monkeypatch):
    threads, logged, scores = [], [], ItemKNN.sparse_scores

    def noted(*given):
        threads.append(threading.current_thread() is threading.main_thread())
        return scores(*given)

    monkeypatch.setattr(ItemKNN, "sparse_scores", noted)
    for ahead in (False, True):
        threads.clear()
        trainer = make_trainer(
            recommender_model=knn(train_rows),
            rewards=REWARDS,
            objective="flow_kl",
            samplers={"target": 1, "curriculum": 2} if not named else {"target": 1, "random": 2},
            reward_items=named,
            recommender_ahead=ahead,
            gradient_accumulation_steps=2,
            max_steps=5,
            name=f"ahead_{ahead}",
        )
        trainer.train()
        logged.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
        assert all(threads) or ahead
    assert logged[0] == logged[1]
    assert threads.count(False) >= 6  # both micro-batches of each step but the first two, which are read together


def test_a_recommender_cannot_answer_ahead_for_flows_that_are_kept_or_where_there_is_none(make_trainer):
    with raises(InputError, field="recommender_ahead"):
        make_trainer(objective="flow_kl", keep_flows=True, samplers={"target": 1}, recommender_ahead=True)
    with raises(InputError, field="recommender_ahead"):
        make_trainer(objective="flow_kl", rewards={"hit": 1.0}, recommender_ahead=True)


def test_the_sampler_reward_draws_in_proportion_to_the_target_distribution(make_trainer, train_rows):
    for named in (0, 48):
        trainer = make_trainer(
            recommender_model=knn(train_rows),
            rewards=REWARDS,
            objective="flow_kl",
            samplers={"target": 1, "reward": 2},
            reward_items=named,
            name=f"draws_{named}",
            max_steps=1,
        )
        trainer.train()
        batch = trainer.prompts(trainer.rows(trainer.train_dataset.select(range(2)).to_list(), 0))
        target = trainer.method.scorer.target
        drawn = target.draw(batch, 20_000, torch.Generator().manual_seed(0))
        counts = torch.stack([row.bincount(minlength=48) for row in drawn]) / 20_000
        torch.testing.assert_close(counts, target.catalog(batch).softmax(-1), atol=0.015, rtol=0)
    with raises(InputError, field="samplers"):
        make_trainer(GRPOTrainer, samplers={"target": 1, "reward": 2}, rewards={"hit": 1.0}, name="grpo")


class ByCatalog:
    """A reward that cannot say which items it names."""

    def __call__(self, batch, trajectories):
        return torch.ones(trajectories.items.shape)

    def catalog(self, batch):
        return torch.ones(len(batch), 48)


def test_what_cannot_be_named_is_refused_before_the_first_step(make_trainer, monkeypatch):
    with raises(InputError, field="reward_items"):
        make_trainer(objective="flow_kl", reward_items=49)
    with raises(InputError, field="reward_items"):
        make_trainer(rewards=ByCatalog(), objective="flow_kl", reward_items=5)
    with raises(InputError, field="reward_items"):
        make_trainer(objective="exact_tb", reference_weight=1.0, reward_items=5)
    monkeypatch.setattr("trainer.scoring.scorer.BYTES_AN_ENTRY", 10**15)
    with raises(InputError, field="reward_items"):
        make_trainer(objective="flow_kl", reward_items=0)
    make_trainer(objective="flow_kl", reward_items=5)


def test_by_default_items_are_named_where_the_catalog_is_large(tmp_path):
    config = GFlowNetConfig(output_dir=str(tmp_path), use_cpu=True)
    assert [config.named_items(items) for items in (48, 50_000, 50_001)] == [0, 0, 200]


@pytest.mark.parametrize("rows", [40, 2000])
def test_every_process_gets_its_own_groups_in_every_epoch_and_all_rows_come(rows):
    sampler = GroupedSampler(rows, processes=3, batch_size=4, seed=1)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = np.array(list(sampler)).reshape(-1, 3, 4)  # accelerate deals batches in turn
        assert order.size == len(sampler) and len(np.unique(order)) == rows
        epochs.append([{*order[:, process].ravel()} for process in range(3)])
    assert epochs[0] == epochs[1] and not epochs[0][0] & epochs[0][1]
    if rows == 2000:
        assert all(len({row // GROUP for row in own}) <= -(-rows // GROUP) // 3 + 1 for own in epochs[0])
    first = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) != first


def test_a_guide_of_few_items_finds_what_a_guide_of_all_finds(policy, prompts, train_rows, monkeypatch):
    guide = Guide(knn(train_rows), weight=0.8)
    dense = policy.beam(prompts, 12, guide=guide(prompts, policy.trie), k=6)
    monkeypatch.setattr("recommenders.guide.DENSE_ITEMS", 0)
    sparse = policy.beam(prompts, 12, guide=guide(prompts, policy.trie), k=6)
    torch.testing.assert_close(sparse[1], dense[1], atol=1e-4, rtol=1e-4)
    assert (sparse[0] == dense[0]).float().mean() > 0.9


@pytest.mark.slow
def test_a_catalog_of_a_million_items_from_its_codes_to_lists(make_model, tmp_path):
    started, items = time.process_time(), 1_000_000
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.unique(rng.integers(0, 256, (items + 20_000, 4)), axis=0))[:items]
    catalog = Catalog.from_codes([str(item) for item in range(items)], codes, sizes=(256,) * 4)
    tokenizer = word_tokenizer(catalog.trie.sizes)
    rows = made_rows(64, items)
    settings = dict(
        per_device_train_batch_size=8, max_steps=2, max_history=6, use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    parts = dict(train_dataset=rows, processing_class=tokenizer, catalog=catalog)
    model = make_model("qwen3", vocab_size=len(tokenizer))
    SFTTrainer(model, SFTConfig(output_dir=str(tmp_path / "sft"), **settings), **parts).train()
    config = GFlowNetConfig(
        output_dir=str(tmp_path / "gflownet"),
        objective="flow_kl",
        flow_positions="all",
        keep_flows=True,
        samplers={"target": 1, "curriculum": 1, "random": 1, "reward": 1},
        rewards=REWARDS | {"prefix": 0.1},
        logging_steps=1,
        **settings,
    )
    near = knn(rows, items, 20)
    trainer = GFlowNetTrainer(model, config, recommender=near, **parts)
    assert trainer.method.scorer.target.whole == "sparse"
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert len(losses) == 2 and np.isfinite(losses).all()
    found = trainer.evaluate(rows[:4])
    assert 0 <= found["eval_recall@10"] <= 1
    recommender = GenerativeRecommender(
        policy_of(trainer.model, trainer.trie, trainer.tokens), trainer.prompts, catalog
    )
    histories = [[str(item) for item in row["history"]] for row in rows[:2]]
    ranked = recommender.recommend(histories, k=5, guide=near)
    assert all(len(row) == 5 for row in ranked) and isinstance(trainer.prompts, PromptBuilder)
    assert time.process_time() - started < 60
