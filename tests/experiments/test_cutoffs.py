"""Lists of 20 from training to the comparison: each step measures at the cut-offs that it is told."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from catalog.errors import InputError
from experiments.arguments import CompareArguments
from experiments.evaluate import fit_recommenders
from experiments.sweep import missing_stages
from experiments.sweep_settings import check_sweep
from interactions import leave_one_out, save_prepared
from recipes.compare import main
from tests.raising import raises
from tests.stages import run_here

SHORT = {"beam_width": 20, "eval_k": [5, 10, 20]}
SOME = {"eval_users": 12}
SFT = {
    "method": "sft",
    "backbone": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128},
    "max_history": 6,
    "per_device_train_batch_size": 32,
    "max_steps": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "ndcg@20",
    "use_cpu": True,
    **SHORT,
}
RANKING = {"recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@20"}
VARIETY = {"coverage@10", "first_code_coverage@10", "gini@10", "popularity@10"}
DRAWN = {"drawn_recall@10", "drawn_first_codes@10"}


@pytest.fixture
def folder(catalog, tmp_path):
    """Prepared data of 20 users, a recipe, and three recommenders that were measured at other cut-offs."""
    items = [catalog.item_ids[i] for i in np.random.default_rng(0).integers(0, 48, 300)]
    log = pd.DataFrame({"user": np.repeat([f"u{n}" for n in range(20)], 15), "item": items, "timestamp": range(300)})
    save_prepared(tmp_path / "data", catalog, leave_one_out(log, catalog.item_ids, max_history=6))
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(SFT | {"data": "nowhere", "output_dir": f"{tmp_path}/alone"}))
    for name, eval_k in {"all": [5, 10, 20, 40], "few": [3], "others": [7, 10]}.items():
        models = {name: {"kind": "popularity"}}
        fit_recommenders(tmp_path / "data", tmp_path / "fitted", models, eval_k=eval_k, **SOME)
    return tmp_path


@pytest.mark.slow
def test_lists_of_20_are_trained_evaluated_and_compared_at_their_own_cutoffs(folder, monkeypatch):
    monkeypatch.setattr("experiments.sweep.run_stages", run_here)
    recipe = {
        "sweep": {"sft": {"config": f"{folder}/sft.yaml"}},
        "seeds": [1],
        "data": f"{folder}/data",
        "evaluation": SHORT | SOME,
        "references": [f"{folder}/fitted/all"],
        "output_dir": f"{folder}/out",
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(recipe))
    main(["--config", f"{folder}/sweep.yaml"])
    record = json.loads((folder / "out/comparison/metrics.json").read_text())
    for method in ("sft", "all"):
        found = {name for name in record["methods"][method] if "@" in name}
        assert found == RANKING | VARIETY | (DRAWN if method == "sft" else set())
    trained = json.loads((folder / "out/sft/seed_1/metrics.json").read_text())["train"]
    assert {f"eval_{name}" for name in RANKING} <= trained.keys() and trained["best_metric"] == trained["eval_ndcg@20"]
    with np.load(folder / "out/sft/seed_1/evaluation/test/ranked.npz") as file:
        assert file["ranked"].shape == (12, 20)
    assert record["protocol"]["ranking"]["users"] == 12  # the same ones of both, or their targets would not fit

    main(["--config", f"{folder}/sweep.yaml", "--eval_k", "7", "4"])  # the lists are there, whatever they were cut at
    record = json.loads((folder / "out/comparison/metrics.json").read_text())
    found = {name for name in record["methods"]["sft"] if "@" in name}
    assert found == {"recall@4", "recall@7", "ndcg@4", "ndcg@7", "mrr@7"} | VARIETY | DRAWN

    args = CompareArguments(**recipe)
    assert missing(args) == {}
    assert list(missing(replace(args, evaluation=SHORT | SOME | {"eval_k": [5, 10]}))) == ["evaluate sft/seed_1"]
    assert missing(replace(args, references=[f"{folder}/fitted/others"])) == {}
    with raises(InputError, file=folder / "fitted" / "all"):  # was measured on other users
        missing(replace(args, evaluation=SHORT))
    for name, eval_k in {"few": None, "others": [5, 20]}.items():  # nothing in common, and lists of 10
        with raises(InputError, file=folder / "fitted" / name):
            missing(replace(args, references=[f"{folder}/fitted/{name}"], eval_k=eval_k))


def missing(args):
    return missing_stages(args, check_sweep(args))
