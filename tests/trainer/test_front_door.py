"""What trainers are given in Python: what transformers and TRL take is right here, or refused in one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoConfig, AutoModelForSequenceClassification, TrainingArguments

from catalog import word_tokenizer
from catalog.errors import InputError
from interactions.rows import sample_rows
from policy import policy_of
from tests.conftest import SMALL
from tests.raising import raises
from trainer import METHODS, DPOConfig, DPOTrainer, GFlowNetTrainer, GRPOTrainer, SFTConfig, SFTTrainer

ROWS = [{"user": f"u{n}", "history": [n, n + 1], "target": n + 2} for n in range(8)]


def test_lists_of_rows_train_evaluate_and_predict(make_trainer):
    trainer = make_trainer(SFTTrainer, rows=ROWS, max_steps=1)
    same = make_trainer(SFTTrainer, rows=Dataset.from_list(ROWS).with_format("numpy"), max_steps=1)
    for one in (trainer, same):
        one.train()
    losses = [one.state.log_history[0]["loss"] for one in (trainer, same)]
    assert losses[0] == losses[1]
    measured = trainer.evaluate(ROWS)
    found = trainer.predict(ROWS)
    assert found.predictions.shape == (8, trainer.args.beam_width) and found.label_ids.tolist() == list(range(2, 10))
    assert {name.replace("test_", "eval_"): value for name, value in found.metrics.items()}.items() <= measured.items()
    asked = trainer.predict([{"history": row["history"]} for row in ROWS])
    assert np.array_equal(asked.predictions, found.predictions) and (asked.label_ids, asked.metrics) == (None, {})
    for wrong in (None, [], {"a": []}, "data", [{"history": [1]}]):
        with raises(InputError, field="eval_dataset"):
            trainer.eval_dataset = None
            trainer.evaluate(wrong)
    with raises(InputError, field="test_dataset"):
        trainer.predict([{"items": [1]}])
    for name in ("evaluation_loop", "prediction_step", "hyperparameter_search", "push_to_hub"):
        with raises(InputError, field=name):
            getattr(trainer, name)(ROWS)


def test_evaluations_rank_the_same_sample_and_predict_ranks_all(make_trainer, caplog):
    rows = [{"user": f"u{n}", "history": [n, n + 1], "target": n + 2} for n in range(30)]
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2, "eval_k": [3, 20], "beam_width": 20}
    trainer = make_trainer(SFTTrainer, rows=rows, eval_users=12, learning_rate=0.0, **settings)
    asked = [record for record in caplog.records if "eval_users" in record.getMessage()]
    assert len(asked) == 1 and "12 of the 40" in asked[0].getMessage()
    trainer.train()
    ranked = [{k: v for k, v in log.items() if "@" in k} for log in trainer.state.log_history if "eval_mrr@20" in log]
    assert len(ranked) == 2 and ranked[0] == ranked[1]
    assert ranked[0].keys() == {f"eval_{name}" for name in ("recall@3", "recall@20", "ndcg@3", "ndcg@20", "mrr@20")}
    assert len([record for record in caplog.records if "eval_users" in record.getMessage()]) == 1
    sample = sample_rows(trainer.eval_dataset, 12)
    found = trainer.predict(sample, metric_key_prefix="eval")
    assert found.metrics == ranked[0] and len(found.predictions) == 12
    everything = trainer.predict(trainer.eval_dataset)
    assert everything.predictions.shape == (40, 20)
    assert everything.metrics["test_mrr@20"] != found.metrics["eval_mrr@20"]


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return ROWS[index]


@pytest.mark.parametrize(
    "rows",
    [
        Dataset.from_list(ROWS).to_iterable_dataset(),
        DatasetDict({"train": Dataset.from_list(ROWS)}),
        {"history": [[1]], "target": [2]},
        Rows(),
        Dataset.from_list(ROWS).to_pandas(),
        "data",
        [],
        [*ROWS, {"history": "1 2", "target": 3}],
        Dataset.from_list(ROWS).remove_columns("target"),
        Dataset.from_list(ROWS).remove_columns("history"),
        Dataset.from_list([row | {"target": 1.5} for row in ROWS]),
        Dataset.from_list([row | {"history": ["p1"]} for row in ROWS]),
        Dataset.from_list([row | {"history": 1} for row in ROWS]),
        Dataset.from_list(ROWS).with_transform(lambda batch: batch),
        Dataset.from_list(ROWS).select([]),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_rows_of_other_kinds_are_refused(rows, make_trainer):
    kept = {"keep_flows": True, "flow_positions": "all", "objective": "flow_kl"}
    for kind, settings in ((SFTTrainer, {}), (GFlowNetTrainer, kept)):
        with raises(InputError, field="train_dataset"):
            make_trainer(kind, rows=rows, **settings)


@pytest.mark.parametrize("kind", [SFTTrainer, DPOTrainer, GFlowNetTrainer])
def test_what_is_no_model_config_tokenizer_or_catalog_is_refused(kind, make_model, catalog, tokenizer, tmp_path):
    right = dict(model=make_model(), processing_class=tokenizer, catalog=catalog, train_dataset=ROWS)
    for wrong in (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), {"output_dir": "run"}):
        with raises(InputError, field="args"):
            kind(**right | {"args": wrong})
    right["args"] = dict(METHODS.values())[kind](output_dir=str(tmp_path), use_cpu=True)
    for name, value in (("model", "some/folder"), ("model", torch.nn.Linear(2, 2)), ("model", None)):
        with raises(InputError, field=name):
            kind(**right | {name: value})
    for name, value in (("processing_class", None), ("processing_class", "gpt2"), ("catalog", str(tmp_path))):
        with raises(InputError, field=name, value=value):
            kind(**right | {name: value})
    for name in ("compute_metrics", "rewards", "tokenizer", "data_collator", "model_init", "whatever"):
        with raises(InputError, field=name):
            kind(**right | {name: None})


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    """A backbone with its tokenizer."""
    make_model().save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def losses(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def first_step(trainer):
    (step,), _ = trainer.get_batch_samples(iter([trainer.train_dataset.to_list()[:4]]), 1, trainer.args.device)
    return step


@pytest.mark.parametrize("kind", [str, Path])
def test_a_model_is_loaded_with_its_tokenizer_from_a_folder(kind, folder, catalog, make_trainer, tokenizer):
    whole = make_trainer(SFTTrainer, rows=ROWS)
    whole.train()
    trainer = SFTTrainer(kind(folder), whole.args, train_dataset=ROWS, catalog=catalog)
    assert trainer.processing_class.get_vocab() == tokenizer.get_vocab()
    trainer.train()
    assert losses(trainer) == losses(whole)
    other = word_tokenizer([size + 1 for size in catalog.trie.sizes])
    with raises(InputError, field="processing_class"):
        SFTTrainer(kind(folder), whole.args, train_dataset=ROWS, catalog=catalog, processing_class=other)


@pytest.mark.parametrize(("kind", "config"), METHODS.values())
def test_without_args_a_run_has_a_folder_of_its_own(kind, config, folder, make_model, tokenizer, catalog, monkeypatch):
    monkeypatch.chdir(folder.parent)
    name = kind.__name__.removesuffix("Trainer")
    trainer = kind("backbone", train_dataset=ROWS, catalog=catalog)
    assert type(trainer.args) is config and trainer.args.output_dir == f"backbone-{name}"
    made = kind(make_model("gpt2"), train_dataset=ROWS, catalog=catalog, processing_class=tokenizer)
    assert made.args.output_dir == f"gpt2-{name}"


class Parity:
    """A reward of this project; it is given the catalog where a recipe names it."""

    def __init__(self, catalog=None):
        pass

    def __call__(self, batch, trajectories):
        return (trajectories.items % 2).float()


def nearness(completions, target, completion_ids, **columns):
    """A reward function of TRL."""
    return [1 / (1 + sum(ids) % 7 + number) for ids, number in zip(completion_ids, target, strict=True)]


@pytest.mark.parametrize("kind", [GRPOTrainer, GFlowNetTrainer])
def test_rewards_in_python_are_those_that_a_recipe_names(kind, make_trainer):
    weights = (0.5, 2.0, 3.0)
    parts = {"reward_funcs": [Parity(), "hit", nearness], "reward_weights": weights}
    given = make_trainer(kind, rewards=parts["reward_funcs"], parts={"reward_weights": weights}, rows=ROWS)
    names = (f"{__name__}:Parity", "hit", f"{__name__}:nearness")
    asked = make_trainer(kind, rewards=dict(zip(names, weights, strict=True)), rows=ROWS)
    steps = [first_step(trainer).scores for trainer in (given, asked)]
    assert steps[0].reward.equal(steps[1].reward) and len(steps[0].reward.unique()) > 4
    assert steps[0].log_reward.equal(steps[1].log_reward)
    assert given.python_parts == {"rewards": {"<in memory> 1": 0.5, "hit": 2.0, names[2]: 3.0}}


def test_weights_of_rewards_that_are_not_there_are_refused(make_trainer):
    with raises(InputError, field="reward_weights"):
        make_trainer(GRPOTrainer, rewards=["hit", nearness], parts={"reward_weights": [1.0]})
    with raises(InputError, field="reward_weights"):
        make_trainer(GRPOTrainer, parts={"reward_weights": [1.0]})
    with raises(InputError, field="reward_funcs"):
        make_trainer(GRPOTrainer, rewards=["hit", "hit"])
    with raises(InputError, field="reward_funcs"):
        make_trainer(GRPOTrainer, rewards="some/folder")


def test_what_supervised_fine_tuning_does_not_read_is_refused(make_trainer):
    for name, value in (("reward_funcs", "hit"), ("samplers", {"mine": None}), ("recommender", object())):
        with raises(InputError, field=name):
            make_trainer(SFTTrainer, parts={name: value})


def test_a_model_that_classifies_is_given_prompt_and_completion(make_trainer, tokenizer, tmp_path):
    config = AutoConfig.for_model("qwen3", vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **SMALL["qwen3"])
    judge = AutoModelForSequenceClassification.from_config(config).eval()
    judge.save_pretrained(tmp_path / "judge"), tokenizer.save_pretrained(tmp_path / "judge")
    trainer = make_trainer(GRPOTrainer, rewards=str(tmp_path / "judge"), rows=ROWS)
    step = first_step(trainer)
    codes = trainer.tokens[trainer.trie.path(step.trajectories.items)[..., 1:]]  # [B, K, L]
    for prompt, mask, own, rewards in zip(
        step.prompts.input_ids, step.prompts.attention_mask, codes, step.scores.reward, strict=True
    ):
        for trajectory, reward in zip(own, rewards, strict=True):
            logit = judge(input_ids=torch.cat([prompt[mask.bool()], trajectory]).unsqueeze(0)).logits
            assert reward.item() == pytest.approx(logit.item(), abs=1e-5)
    trainer.train()
    assert np.isfinite(losses(trainer)).all()


def test_a_reference_of_ones_own_is_what_is_compared_with(make_trainer, make_model):
    reference = make_model(intermediate_size=96)
    trainer = make_trainer(DPOTrainer, parts={"ref_model": reference}, learning_rate=1e-2)
    assert trainer.method.reference.policy.model is reference
    step = first_step(trainer)
    expected = policy_of(reference, trainer.trie, trainer.tokens).log_probs(step.prompts, step.trajectories.items)
    torch.testing.assert_close(step.reference, expected.log_pf)
    trainer.train()
    assert trainer.method.reference_log_probs(step.prompts, step.trajectories).equal(step.reference)
    for kind, settings in ((SFTTrainer, {}), (GRPOTrainer, {"beta": 0.0}), (GFlowNetTrainer, {})):
        with raises(InputError, field="ref_model"):
            make_trainer(kind, parts={"ref_model": reference}, **settings)


def test_several_data_sets_are_evaluated_each_by_its_name(make_trainer, make_model, catalog, tokenizer):
    args = make_trainer(SFTTrainer, eval_strategy="steps", eval_steps=3).args
    sets = {"first": ROWS, "second": Dataset.from_list(ROWS[:3])}
    trainer = SFTTrainer(
        make_model(), args, train_dataset=ROWS, eval_dataset=sets, catalog=catalog, processing_class=tokenizer
    )
    trainer.train()
    shown = {name for record in trainer.state.log_history for name in record}
    assert {"eval_first_recall@10", "eval_second_recall@10"} <= shown and "eval_recall@10" not in shown
    found = trainer.evaluate()
    for name, rows in sets.items():
        alone = trainer.evaluate(rows)
        assert found[f"eval_{name}_mrr@50"] == alone["eval_mrr@50"]
    with raises(InputError):
        SFTTrainer(make_model(), args, eval_dataset=sets | {"third": []}, catalog=catalog, processing_class=tokenizer)


def test_an_optimizer_of_ones_own_trains(make_trainer, make_model, catalog, tokenizer):
    stock = make_trainer(SFTTrainer, rows=ROWS, optim="sgd", learning_rate=0.1)
    stock.train()
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    trainer = SFTTrainer(
        model,
        stock.args,
        train_dataset=ROWS,
        catalog=catalog,
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    assert losses(trainer) == pytest.approx(losses(stock), rel=1e-5)
    assert trainer.python_parts["optimizer"]["torch.optim.sgd:SGD"]["lr"] == "0.2"
    assert trainer.python_parts["scheduler"].endswith(":LambdaLR")


def test_an_optimizer_of_other_weights_is_refused(make_trainer, make_model):
    other = torch.optim.SGD(make_model().parameters(), 0.2)
    with raises(InputError, field="optimizers"):
        make_trainer(SFTTrainer, rows=ROWS, parts={"optimizers": (other, None)})


def test_a_reference_that_is_the_model_itself_is_refused(make_trainer, make_model, catalog, tokenizer, tmp_path):
    model = make_model()
    config = DPOConfig(output_dir=str(tmp_path), use_cpu=True)
    with raises(InputError, field="ref_model"):
        DPOTrainer(model, config, train_dataset=ROWS, processing_class=tokenizer, catalog=catalog, ref_model=model)


def test_the_best_model_is_of_one_of_several_evaluation_sets(make_model, catalog, tokenizer, tmp_path):
    sets = {"b": ROWS[:4], "train": ROWS[:2]}

    def make(rows, **settings):
        how = dict(
            eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True
        )
        config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, max_steps=2, disable_tqdm=True, **how, **settings)
        parts = {"processing_class": tokenizer, "catalog": catalog}
        return config, SFTTrainer(make_model(), config, train_dataset=ROWS, eval_dataset=rows, **parts)

    config, trainer = make(sets)
    trainer.train()
    assert config.metric_for_best_model == "recall@10"  # the caller's own
    assert trainer.args.metric_for_best_model == "b_recall@10" and trainer.state.best_metric is not None
    assert {*trainer.provenance.splits} == {"train", "validation.b", "validation.train"}
    for rows, metric in ((sets, "c_recall@10"), (ROWS, "b_recall@10")):
        with raises(InputError, field="metric_for_best_model"):
            make(rows, metric_for_best_model=metric)


def test_likelihood_is_refused_after_every_prefix_in_python_too(make_trainer):
    how = dict(objective="flow_kl", flow_positions="all", samplers={"target": 1})
    with raises(InputError, field="reward_funcs"):
        make_trainer(GFlowNetTrainer, rewards=["likelihood"], rows=ROWS, **how)


def test_a_folder_without_a_classifier_is_no_reward_model(make_trainer, make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path / "lm"), tokenizer.save_pretrained(tmp_path / "lm")
    with raises(InputError, field="reward_funcs"):
        make_trainer(GRPOTrainer, rewards=str(tmp_path / "lm"), rows=ROWS)
