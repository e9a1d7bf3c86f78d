"""Every setting does what it says, or is refused before anything is trained."""

import dataclasses
import math

import pytest
import torch
from transformers import TrainingArguments

from catalog.errors import GFlowGRError, InputError, SetupError
from tests.raising import raises
from trainer import METHODS, GFlowNetConfig, GFlowNetTrainer, SFTConfig, SFTTrainer
from trainer.runtime.training_arguments import APPLIED, HARMLESS, REFUSED

FIELDS = TrainingArguments.__dataclass_fields__


@pytest.fixture
def config(tmp_path):
    def make(kind=SFTConfig, **settings):
        return kind(**({"output_dir": str(tmp_path / "run"), "use_cpu": True} | settings))

    return make


def test_every_field_of_transformers_is_applied_harmless_or_refused():
    assert set(FIELDS) == APPLIED | HARMLESS.keys() | REFUSED.keys()
    assert len(FIELDS) == len(APPLIED) + len(HARMLESS) + len(REFUSED)


AWAY = {
    "accelerator_config": {"dispatch_batches": True},
    "ddp_static_graph": True,
    "debug": "tpu_metrics_debug",
    "dataloader_multiprocessing_context": "spawn",
    "hub_strategy": "end",
    "include_for_metrics": ["loss"],
    "include_num_input_tokens_seen": "all",
    "label_names": ["labels"],
    "label_smoothing_factor": 0.1,
    "length_column_name": "size",
    "liger_kernel_config": {"rope": True},
    "eval_accumulation_steps": 2,
    "hub_private_repo": True,
    "optim_target_modules": ["attn"],
    "train_sampling_strategy": "group_by_length",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_do_nothing_is_refused_away_from_its_default(name, config):
    kind, default = FIELDS[name].type, SFTConfig.__dataclass_fields__[name].default
    value = AWAY.get(name, not default if kind is bool or name.startswith("ddp_find") else "text")
    if name == "parallelism_config":
        from accelerate import ParallelismConfig

        value = ParallelismConfig()
    with raises(InputError, field=name, value=value):
        config(**{name: value})


def test_the_defaults_and_what_a_config_made_of_itself_pass_again(config):
    for _, kind in METHODS.values():
        made = config(kind, metric_for_best_model="recall@10", eval_strategy="steps", lr_scheduler_kwargs=None)
        again = kind(**{name: getattr(made, name) for name in (f.name for f in dataclasses.fields(kind))})
        assert again.to_dict() == made.to_dict()


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": [1, 2]},
        {"max_steps": 2.5},
        {"max_steps": True},
        {"max_steps": 0},
        {"num_train_epochs": 0},
        {"num_train_epochs": -1.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"learning_rate": "fast"},
        {"learning_rate": -1e-3},
        {"per_device_train_batch_size": 0},
        {"per_device_eval_batch_size": -1},
        {"gradient_accumulation_steps": 0},
        {"save_total_limit": 0},
        {"logging_steps": 0},
        {"save_steps": -1},
        {"adam_beta1": 1.0},
        {"seed": -1},
        {"seed": 2**32},
        {"bf16": "yes"},
        {"eval_strategy": "stpes"},
        {"lr_scheduler_type": "cosin"},
        {"optim": "adam"},
        {"optim": "galore_adamw"},
        {"optim_args": "nothing=1"},
        {"lr_scheduler_kwargs": {"nothing": 1}},
        {"log_level": "loud"},
        {"train_sampling_strategy": "sorted"},
        {"report_to": "tensorbord"},
        {"ddp_backend": "glo"},
        {"normalization": "vocabulry"},
        {"sft_positions": "Target"},
        {"max_history": 0},
        {"beam_width": 10},
        {"eval_k": []},
        {"eval_k": [5, 5]},
        {"eval_k": [0, 5]},
        {"eval_k": ["5"]},
        {"eval_k": 5},
        {"eval_users": 0},
        {"early_stopping_patience": 0},
        {"log_trajectories_steps": 0},
        {"global_batch_size": 0},
        {"fp16": True},
    ],
    ids=str,
)
def test_a_value_out_of_its_kind_or_range_is_refused_in_python_too(settings, config):
    ((name, value),) = settings.items()
    with pytest.raises(InputError) as caught:
        config(**settings)
    assert caught.value.field == name
    assert caught.value.value == value or value != value


@pytest.mark.parametrize(
    "settings",
    [
        {"trajectories": 0},
        {"sft_weight": -1.0},
        {"source_weights": {"polcy": 1.0}},
        {"source_weights": {"policy": "much"}},
        {"source_weights": {"target": 0, "policy": 0}},
        {"source_weights": '{"policy": 1, "policy": 2}'},
        {"source_weights": '{"policy": NaN}'},
        {"samplers": "[1]"},
        {"rewards": ["hit"]},
        {"objective": "subtd"},
        {"reward_floor": math.nan},
        {"flow_positions": "al"},
        {"match_rows": -1},
        {"vllm_mode": "colocated"},
        {"rollout_staleness": -1},
        {"rollout_timeout": 0.0},
        {"weight_transfer": "rdma"},
        {"weight_transfer": "nccl"},
    ],
    ids=str,
)
def test_so_are_those_of_the_methods(settings, config):
    with raises(InputError, field=next(iter(settings))):
        config(GFlowNetConfig, **settings)


def test_an_optimizer_whose_package_is_missing_is_said_before_training(config):
    with raises(SetupError, field="optim", value="adamw_torch_xla"):
        config(optim="adamw_torch_xla")


# the metric of the best checkpoint


@pytest.mark.parametrize(
    "settings",
    [
        {"early_stopping_patience": 2},
        {"load_best_model_at_end": True},
        {"save_strategy": "best"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"lr_scheduler_type": "greedy"},
    ],
    ids=str,
)
def test_what_needs_a_metric_takes_recall_and_needs_evaluations(settings, config):
    made = config(eval_strategy="steps", eval_steps=1, save_steps=1, **settings)
    assert (made.metric_for_best_model, made.greater_is_better) == ("recall@10", True)
    with raises(InputError, field=next(iter(settings))):
        config(eval_strategy="no", **settings)


def test_the_direction_belongs_to_the_metric(config):
    def settled(metric, **settings):
        return config(GFlowNetConfig, eval_strategy="steps", metric_for_best_model=metric, **settings)

    assert [settled(m).greater_is_better for m in ("kl", "eval_tv", "reward_correlation", "mrr@50")] == [
        *(False, False, True, True)
    ]
    plateau = settled("recall@10", lr_scheduler_type="reduce_lr_on_plateau")
    assert plateau.lr_scheduler_kwargs == {"mode": "max"}
    assert settled("kl", lr_scheduler_type="reduce_lr_on_plateau").lr_scheduler_kwargs == {"mode": "min"}
    with raises(InputError, field="greater_is_better", value=True):
        settled("kl", greater_is_better=True)
    with raises(InputError, field="lr_scheduler_kwargs"):
        settled("kl", lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"mode": "max"})


def test_the_best_model_is_chosen_by_any_metric_at_the_cutoffs_of_the_run(config):
    def settled(metric=None, eval_k=(20, 7), **settings):
        choice = {"metric_for_best_model": metric, "load_best_model_at_end": True}
        return config(eval_strategy="steps", eval_steps=1, save_steps=1, eval_k=list(eval_k), **choice, **settings)

    made = settled("eval_ndcg@20", beam_width=20)
    assert (made.metric_for_best_model, made.greater_is_better, made.eval_k) == ("ndcg@20", True, [7, 20])
    assert settled("mrr@20").metric_for_best_model == "mrr@20"
    assert settled().metric_for_best_model == "recall@7"  # the nearest to 10
    assert settled(eval_k=[10, 30]).metric_for_best_model == "recall@10"
    with raises(InputError, field="metric_for_best_model", value="recall@10"):
        settled("recall@10")
    with raises(InputError, field="beam_width", value=19):
        settled("recall@7", beam_width=19)


@pytest.mark.parametrize(
    ("kind", "metric", "near"),
    [
        (SFTConfig, "recal@10", "recall@10"),
        (SFTConfig, "eval_loss", ""),
        (SFTConfig, "kl", ""),
        (GFlowNetConfig, "tvv", "tv"),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused_with_the_nearest(kind, metric, near, config):
    with raises(InputError, field="metric_for_best_model", value=metric.removeprefix("eval_")) as caught:
        config(kind, eval_strategy="steps", metric_for_best_model=metric)
    assert near in caught.value.remedy


def test_the_lowest_kl_is_the_best_and_the_evaluations_give_what_the_config_names(make_trainer):
    trainer = make_trainer(
        GFlowNetTrainer,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="kl",
        learning_rate=0.05,
        max_steps=3,
    )
    trainer.train()
    records = [record for record in trainer.state.log_history if "eval_kl" in record]
    values = [record["eval_kl"] for record in records]
    assert trainer.state.best_metric == min(values) < max(values)
    assert {f"eval_{name}" for name in trainer.args.eval_metrics} <= records[0].keys()


def test_a_metric_that_the_reward_cannot_give_is_refused_before_the_first_step(make_trainer):
    def hit(batch, trajectories):
        return (trajectories.items == batch.target.unsqueeze(1)).float()

    settings = {"eval_strategy": "steps", "metric_for_best_model": "kl"}
    with raises(InputError, field="metric_for_best_model", value="kl"):
        make_trainer(GFlowNetTrainer, rewards=hit, **settings)


# where a run goes on


@pytest.mark.parametrize("value", [True, "true", "True", "yes", "run"])
def test_a_yes_and_the_folder_of_the_run_mean_its_last_checkpoint(value, config, tmp_path):
    (tmp_path / "run").mkdir()
    value = str(tmp_path / "run") if value == "run" else value
    assert config(resume_from_checkpoint=value).resume_from_checkpoint is True


@pytest.mark.parametrize("value", [None, False, "false", "False", "no"])
def test_a_no_begins_anew(value, config):
    assert config(resume_from_checkpoint=value).resume_from_checkpoint is None


def test_a_folder_of_a_checkpoint_is_kept_and_anything_else_refused(config, tmp_path):
    (tmp_path / "run" / "checkpoint-12").mkdir(parents=True)
    folder = str(tmp_path / "run" / "checkpoint-12")
    assert config(resume_from_checkpoint=folder).resume_from_checkpoint == folder
    (tmp_path / "other").mkdir()
    for wrong in ("maybe", 12, str(tmp_path / "none"), str(tmp_path / "other"), ["true"]):
        with raises(InputError, field="resume_from_checkpoint", value=wrong):
            config(resume_from_checkpoint=wrong)


def test_data_seed_orders_the_rows(make_trainer):
    def losses(**settings):
        trainer = make_trainer(SFTTrainer, max_steps=1, **settings)
        trainer.train()
        return trainer.state.log_history[0]["loss"]

    assert losses(data_seed=9) != losses()


def test_every_error_of_a_config_can_be_mended(config):
    for settings in ({"deepspeed": "none.json"}, {"fsdp_config": "none.json"}, {"lr_scheduler_kwargs": "{bad"}):
        with pytest.raises(GFlowGRError):
            config(**settings)
    assert torch.get_default_dtype() == torch.float32
