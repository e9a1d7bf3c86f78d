"""What trainers are given in Python: what transformers and TRL take is right here, or refused in one sentence."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import TrainingArguments

from catalog.errors import InputError
from interactions.rows import sample_rows
from tests.raising import raises
from trainer import METHODS, DPOTrainer, GFlowNetTrainer, SFTTrainer

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
    for wrong in (None, [], {"a": ROWS}, [{"history": [1]}]):
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
def test_what_is_no_model_config_tokenizer_or_catalogue_is_refused(kind, make_model, catalog, tokenizer, tmp_path):
    right = dict(model=make_model(), processing_class=tokenizer, catalog=catalog, train_dataset=ROWS)
    right["args"] = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with raises(InputError, field="args"):
        kind(**right)
    for name, value in (("model", "some/folder"), ("model", torch.nn.Linear(2, 2)), ("model", None)):
        with raises(InputError, field=name):
            kind(**right | {name: value})
    right["args"] = dict(METHODS.values())[kind](output_dir=str(tmp_path), use_cpu=True)
    for name, value in (("processing_class", None), ("processing_class", "gpt2"), ("catalog", str(tmp_path))):
        with raises(InputError, field=name, value=value):
            kind(**right | {name: value})
    for name in ("optimizers", "compute_metrics", "reward_funcs", "tokenizer", "ref_model", "data_collator"):
        with raises(InputError, field=name):
            kind(**right | {name: None})
