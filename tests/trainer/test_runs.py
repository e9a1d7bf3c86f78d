"""What must hold of whole runs, whatever is trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from catalog import SOURCES
from catalog.errors import RunError
from policy import CausalPolicy
from tests.raising import raises
from trainer import METRICS, GFlowNetConfig, GFlowNetTrainer, SFTTrainer
from trainer.reporting.metrics import check_names


def losses(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def test_sft_learns_the_rule(make_trainer):
    trainer = make_trainer(
        SFTTrainer, max_steps=60, learning_rate=1e-2, sft_positions="target", beam_width=50, exclude_history=False
    )
    before = trainer.evaluate()["eval_recall@10"]
    trainer.train()
    assert trainer.evaluate()["eval_recall@10"] > before + 0.3


@pytest.mark.parametrize("kind", [SFTTrainer, GFlowNetTrainer])
def test_accumulation_changes_nothing(kind, make_trainer):
    # SGD, since Adam turns a log Z gradient of zero, where the head starts, into a full step along its rounding error
    settings = {"optim": "sgd", "learning_rate": 0.1} | ({} if kind is SFTTrainer else {"samplers": {"target": 1}})
    whole = make_trainer(kind, per_device_train_batch_size=8, name="whole", **settings)
    parts = make_trainer(kind, per_device_train_batch_size=2, gradient_accumulation_steps=4, name="parts", **settings)
    whole.train(), parts.train()
    torch.testing.assert_close(losses(whole), losses(parts), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["tb", "vargrad", "db"])
def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(objective, make_trainer):
    settings = dict(
        max_steps=12,
        per_device_train_batch_size=8,
        save_strategy="steps",
        save_steps=7,  # in the middle of the second epoch, when the replay memory has something to give
        objective=objective,
        samplers={"target": 1, "policy": 2, "replay": {"count": 2, "prioritize": "error"}},
        random_cut=True,
        model={"kind": "gpt2"},
        lr_scheduler_type="linear",
    )
    whole = make_trainer(**settings)
    whole.train()
    again = make_trainer(**settings)  # the same folder
    again.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / "checkpoint-7"))
    assert losses(whole) == losses(again)
    for (name, ours), theirs in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    log = [json.loads(line) for line in (Path(whole.args.output_dir) / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log if "loss" in record] == list(range(1, 13))


def test_a_saved_policy_is_a_plain_checkpoint_and_its_flow_head_lies_beside_it(make_trainer, prompts, catalog):
    trainer = make_trainer(objective="tb")
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    assert not [name for name in load_file(folder / "model.safetensors") if "flow_heads" in name]
    assert {name.split(".")[0] for name in load_file(folder / "flow_heads" / "flow_heads.safetensors")} == {"log_flow"}
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size
    loaded = CausalPolicy(model, catalog.trie, trainer.tokens)
    torch.testing.assert_close(loaded.distribution(prompts), trainer.policy.distribution(prompts))


def test_every_run_leaves_its_config_environment_log_and_metrics(make_trainer):
    trainer = make_trainer()
    trainer.train()
    folder = Path(trainer.args.output_dir)
    resolved = yaml.safe_load((folder / "resolved.yaml").read_text())
    assert resolved["objective"] == "tb" and resolved["samplers"] == {"target": 1, "policy": 3}
    assert {"python", "torch", "commit", "device"} <= set(json.loads((folder / "environment.json").read_text()))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shown = {name for record in records for name in record if "/" in name}
    ours = {name for name in METRICS if "/" in name and not name.startswith(("rewards/", "clip_ratio/"))}
    # of flow_kl, flow_positions and reward_items, and of vLLM
    assert shown == ours - {
        "flow/divergence",
        "objective/history_loss",
        "reward/cut_mass",
        "time/sync_ms",
        "time/wait_ms",
    }
    assert all(record["sampler/valid_share"] == 1.0 for record in records if "loss" in record)
    assert json.loads((folder / "metrics.json").read_text())["train"]["step"] == 3


def test_sampler_and_trainer_agree_to_rounding_without_dropout(make_trainer):
    trainer = make_trainer()  # qwen3 has no dropout
    trainer.train()
    gaps = [r["sampler/log_pf_gap"] for r in trainer.state.log_history if "sampler/log_pf_gap" in r]
    assert len(gaps) == 3 and max(gaps) < 1e-5
    assert trainer.shared_prefix_gap < 1e-5


def test_the_log_z_head_starts_at_the_measured_value_and_learns_at_its_own_rate(make_trainer):
    trainer = make_trainer(flow_lr_multiplier=50)
    trainer.train()
    rates = {group["lr"]: sum(p.numel() for p in group["params"]) for group in trainer.optimizer.param_groups}
    assert set(rates) == {1e-3, 0.05}
    assert rates[0.05] == sum(p.numel() for p in trainer.model.flow_heads.parameters())
    log_z = [record["flow/log_z"] for record in trainer.state.log_history if "flow/log_z" in record]
    assert 0 not in log_z
    assert abs(log_z[2] - log_z[0]) > 0.02  # the policy's rate would move it by about 0.002


def test_random_cut_ends_prompts_everywhere_and_the_same_way_for_the_same_seed(make_trainer):
    trainer = make_trainer(random_cut=True)
    rows = trainer.train_dataset.to_list()
    cut = trainer.rows(rows, seed=1)
    assert cut == trainer.rows(rows, seed=1) != trainer.rows(rows, seed=2)
    for row, short in zip(rows, cut, strict=True):
        whole = [*row["history"], row["target"]]
        assert [*short["history"], short["target"]] == whole[: len(short["history"]) + 1] and short["history"]
    assert len({len(row["history"]) for row in cut}) > 4


def test_the_target_comes_first_and_the_others_keep_the_order_of_the_recipe(make_trainer):
    trainer = make_trainer(samplers={"policy": 2, "target": 1, "random": 1})
    batch = trainer.prompts(trainer.train_dataset.to_list()[:3])
    trajectories = trainer.rollouts.mixture.sample(batch, seed=0)
    names = [SOURCES[i] for i in trajectories.source[0].tolist()]
    assert names == ["target", "policy", "policy", "random"]


def test_a_seed_draws_the_same_flow_heads_whatever_was_drawn_before(make_model, catalog, tokenizer, tmp_path):
    heads = []
    for before in (1, 2):
        model = make_model()
        torch.manual_seed(before)
        config = GFlowNetConfig(str(tmp_path), use_cpu=True, seed=7)
        trainer = GFlowNetTrainer(model, config, processing_class=tokenizer, catalog=catalog)
        heads.append(trainer.model.flow_heads.state_dict())
    for first, second in zip(heads[0].values(), heads[1].values(), strict=True):
        assert first.equal(second)


def test_an_infinite_loss_stops_the_run_and_leaves_its_batch(make_trainer):
    trainer = make_trainer(
        rewards=lambda batch, trajectories: torch.full(trajectories.items.shape, 1e38), flow_weight=1e38
    )
    with pytest.raises(RunError, match="step 0; the prompts and trajectories are in .*failed_batch_0.json"):
        trainer.train()
    batch = json.loads((Path(trainer.args.output_dir) / "failed_batch_0.json").read_text())
    assert batch["step"] == 0 and np.shape(batch["log_pf"])[:2] == np.shape(batch["items"])
    assert np.max(batch["reward"]) > 1e37


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_floor": 0.0}, "reward_floor"),
        ({"reward_temperature": -1.0}, "reward_temperature"),
        ({"flow_weight": -1.0}, "flow_weight"),
        ({"max_history": 0}, "max_history"),
        ({"beam_width": 10}, "beam_width"),
        ({"samplers": "{target: 1"}, "JSON"),
        ({"rewards": [1]}, "rewards=.* a table"),
        ({"reward_temperature_end": 0.0}, "reward_temperature_end"),
        ({"reward_floor_end": float("inf")}, "reward_floor_end"),
        ({"subtb_lambda": 0.0}, "subtb_lambda"),
        ({"source_weights": {"beams": 1.0}}, "source_weights: .beams"),
        ({"source_weights": {"policy": -1}}, "source_weights=.*policy"),
        ({"objective": "flow_kl", "residual_clip": 1.0}, "no residual"),
        ({"objective": "ppo"}, "not one of"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        GFlowNetConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samplers": {"policy": 2}}, "target: 1"),
        ({"samplers": {"target": 1, "beams": 2}}, "no sampler 'beams'"),
        ({"samplers": {"target": 1, "policy": 48}}, "Lower K"),
        ({"samplers": {"target": 1, "policy": "two"}}, "whole number"),
        ({"max_history": 100}, "positions"),
        ({"trajectories": 5}, "sum to 4"),
        ({"objective": "vargrad", "samplers": {"target": 1}}, "needs 2 trajectories"),
        ({"samplers": {"target": 1, "curriculum": 2}}, "recommender"),
        ({"rewards": {"collaborative": 1.0}}, "recommender"),
        ({"recommender": "nowhere"}, "nowhere"),
    ],
)
def test_runs_that_cannot_work_are_refused_before_the_first_step(settings, message, make_trainer):
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_rows_that_cannot_work_are_refused_before_the_first_step(make_trainer, train_rows):
    rows = train_rows.to_list()
    from datasets import Dataset

    with raises(field="history", row=3):
        make_trainer(rows=Dataset.from_list([*rows[:3], rows[3] | {"history": []}, *rows[4:]]))
    with raises(field="target", row=40, value=48):
        make_trainer(rows=Dataset.from_list([*rows, rows[0] | {"target": 48}]))


def test_a_negative_reward_names_the_user_before_the_first_step(make_trainer):
    with pytest.raises(ValueError, match="trajectory 0 of user 'u"):
        make_trainer(rewards=lambda batch, trajectories: -torch.ones(trajectories.items.shape))


def test_a_metric_that_nobody_explained_is_an_error():
    with pytest.raises(ValueError, match="flow/mystery"):
        check_names(["loss", "flow/mystery"])
