"""A run's policy in folders: copied, mixed, published, and completed where an earlier version left it incomplete."""

import shutil

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard

from catalog.errors import InputError, SetupError
from catalog.files import broken, seal, sealed
from experiments.complete import complete_run
from interactions import Splits
from interactions.prepared import save_prepared
from recommenders import GenerativeRecommender, fit_recommender, load_recommender, push_to_hub
from recommenders.policy_folder import policy_files
from tests.raising import raises


@pytest.fixture
def splits(train_rows):
    return Splits(train_rows, train_rows, train_rows)


@pytest.fixture
def run(make_trainer, tmp_path):
    trainer = make_trainer(
        rewards={"hit": 1.0}, samplers={"target": 1, "random": 2}, save_strategy="steps", save_steps=2
    )
    trainer.train()
    trainer.save_model()
    return tmp_path / "run"


def test_a_policy_is_copied_and_mixed_with_others(run, splits, catalog, tmp_path):
    fitted = tmp_path / "fitted"
    fit_recommender("popularity", {}, splits, catalog, fitted / "popularity")
    fit_recommender("policy", {"run": str(run)}, splits, catalog, fitted / "mine")
    weights = {"popularity": 1.0, "mine": 3.0}
    fit_recommender("mixture", {"weights": weights}, splits, catalog, fitted / "mixture")
    run.rename(tmp_path / "moved")  # the copy does not need it
    mixture = load_recommender(fitted / "mixture", catalog, splits.rows)
    parts = [load_recommender(fitted / name, catalog).probabilities([[3], []]) for name in weights]
    torch.testing.assert_close(mixture.probabilities([[3], []]), 0.25 * parts[0] + 0.75 * parts[1])
    with raises(InputError):
        fit_recommender("policy", {"run": str(tmp_path / "nowhere")}, splits, catalog, fitted / "other")


def test_every_checkpoint_is_self_contained(run):
    saved = GenerativeRecommender.from_pretrained(run / "checkpoint-2")
    assert len(saved.recommend([["item3"]], k=5)[0]) == 5


def test_a_run_of_an_earlier_version_is_completed(run, splits, catalog, tmp_path):
    save_prepared(tmp_path / "data", catalog, splits, {}, {})
    before = GenerativeRecommender.from_pretrained(run).recommend([["item3"], []], k=5)
    settings = yaml.safe_load((run / "resolved.yaml").read_text())
    (run / "resolved.yaml").write_text(yaml.safe_dump(settings | {"method": "gflownet"}))
    with raises(InputError, file=run):
        complete_run(run, tmp_path / "data")  # it is complete
    about = sealed(run, "The run")
    (run / "policy.json").unlink()
    shutil.rmtree(run / "catalog")
    seal(run, about)
    with raises(InputError, file=run):
        GenerativeRecommender.from_pretrained(run)
    complete_run(run, tmp_path / "data")
    assert GenerativeRecommender.from_pretrained(run).recommend([["item3"], []], k=5) == before
    assert sealed(run, "The run") == about


def test_what_is_published_is_the_policy_and_nothing_else(run, monkeypatch):
    sent = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **settings: sent.update(name=name, **settings))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **settings: sent.update(settings))
    assert push_to_hub(run, "me/model").endswith("/me/model")
    assert sent["name"] == sent["repo_id"] == "me/model" and sent["private"]
    names = set(sent["allow_patterns"])
    assert names == {str(path.relative_to(run)) for path in policy_files(run)}
    assert {"config.json", "model.safetensors", "tokenizer.json", "policy.json", "README.md"} <= names
    assert {"catalog/catalog.json", "catalog/catalog.safetensors", "catalog/training_counts.safetensors"} <= names
    assert not [name for name in names if "checkpoint" in name or "metrics" in name or "resolved" in name]
    card = ModelCard.load(run / "README.md")
    assert card.data.library_name == "gflowgr" and "gflownet" in card.data.tags
    (run / "policy.json").unlink()
    with raises(InputError, file=run):
        push_to_hub(run, "me/model")


def test_a_hub_that_cannot_be_reached_is_one_sentence(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with raises(SetupError):
        push_to_hub(run, "me/model", token="none")
    assert broken(run) is None
