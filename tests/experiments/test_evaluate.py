"""What an evaluation is compared with: the run's own reward or another's, on the rows that all were made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from catalog.errors import InputError
from catalog.files import seal
from experiments.arguments import EvaluateArguments
from experiments.evaluate import drawn_metrics, output_folder, planned, unseen_metrics
from experiments.evaluations import check_data, data_provenance, weights_digest
from experiments.match import load_target, match_reward
from interactions import Splits
from interactions.prompts import PromptBuilder
from recommenders import GenerativeRecommender, fit_recommender, load_recommender
from tests.raising import raises

REWARDS = """
import torch

class Short:
    def __init__(self, catalog):
        self.items = len(catalog)
    def __call__(self, batch, trajectories):
        return 1.0 - trajectories.items / self.items
    def catalog(self, batch):
        return (1.0 - torch.arange(self.items) / self.items).expand(len(batch), -1)

class Scaled(Short):
    def __init__(self, catalog, alpha=1.0):
        super().__init__(catalog)
"""


@pytest.fixture
def splits(train_rows):
    return Splits(train_rows, train_rows, train_rows)


@pytest.fixture
def run(tmp_path, tokenizer):
    """Makes the folder of a run that was given its parts so."""

    def make(**settings):
        tokenizer.save_pretrained(tmp_path / "run")
        (tmp_path / "run" / "resolved.yaml").write_text(yaml.safe_dump(settings))
        return tmp_path / "run"

    return make


def test_a_reward_given_in_python_is_made_again_or_not_compared_with(
    run, policy, catalog, tokenizer, splits, tmp_path, monkeypatch, caplog
):
    (tmp_path / "their_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    prompts = PromptBuilder(catalog, tokenizer, max_history=6)

    def match(rewards=None, **given):
        folder = run(rewards=rewards, python_parts=given)
        return match_reward(folder, False, policy, splits.test, prompts, catalog, splits)

    stock = match(rewards={"hit": 1.0})
    assert match(rewards={"hit": 1.0}, recommender="<in memory>").metrics == stock.metrics  # which it does not ask
    ran = run(python_parts={"rewards": {"their_rewards:Short": 1.0}})
    assert match_reward(ran, False, policy, splits.test, prompts, catalog, splits).metrics["tv"] != stock.metrics["tv"]
    names = {"their_rewards:Short": 0.25, "hit": 2.0}
    target = load_target(run(python_parts={"rewards": names}), policy, catalog, splits)
    asked = load_target(run(rewards=names), policy, catalog, splits)  # the same from settings
    batch = prompts(splits.test.to_list()[:3])
    assert target.catalog(batch).equal(asked.catalog(batch))
    for lost in ("<in memory>", "their_rewards:Scaled", "nowhere:Reward"):
        ran = run(rewards={"hit": 1.0}, python_parts={"rewards": {lost: 1.0}})
        with raises(InputError, field="rewards", value=lost):
            match_reward(ran, False, policy, splits.test, prompts, catalog, splits)
        caplog.clear()
        assert match_reward(ran, True, policy, splits.test, prompts, catalog, splits) is None and caplog.records
    with raises(InputError, field="recommender"):
        match(rewards={"collaborative": 1.0}, recommender="<in memory>")
    assert match() is None  # without a reward
    with raises(InputError, field="rewards"):
        load_target(run(rewards={}), policy, catalog, splits)


def test_a_run_of_other_rows_is_refused(run, catalog, splits, train_rows):
    of = data_provenance(catalog, splits)
    longer = replace(splits, validation=train_rows.select(range(39)))
    folder = run(data="moved away")
    check_data(folder, "data", data_provenance(catalog, longer))  # it does not say what it was trained on
    seal(folder, {"provenance": replace(of, settings={"seed": 1}).as_dict()})
    check_data(folder, "data", of)
    with raises(InputError, file=folder, field="splits.validation"):
        check_data(folder, "data", data_provenance(catalog, longer))


def test_weights_are_told_apart_by_what_they_are(tmp_path):
    with raises(InputError, file=tmp_path):
        weights_digest(tmp_path)
    content = bytearray(9_000_000)
    (tmp_path / "model.safetensors").write_bytes(content)
    first = weights_digest(tmp_path)
    content[::1000] = b"1" * 9_000
    (tmp_path / "model.safetensors").write_bytes(content)
    assert first != weights_digest(tmp_path)


def test_training_refuses_a_recommender_of_other_rows(make_trainer, splits, catalog, train_rows, tmp_path):
    fit_recommender("popularity", {}, splits, catalog, tmp_path / "own")
    other = replace(splits, validation=train_rows.select(range(39)))
    fit_recommender("popularity", {}, other, catalog, tmp_path / "other")
    settings = {"objective": "flow_kl", "flow_positions": "all", "keep_flows": True}  # which number the training rows
    settings |= {"samplers": {"target": 1}, "rewards": {"collaborative": 1.0}}
    make_trainer(recommender=str(tmp_path / "own"), **settings)
    with raises(InputError, file=tmp_path / "other", field="splits.validation"):
        make_trainer(recommender=str(tmp_path / "other"), **settings)
    with raises(InputError, file=tmp_path / "own", field="splits.train"):
        make_trainer(recommender=str(tmp_path / "own"), rows=train_rows.select(range(20)), **settings)
    knowingly = load_recommender(tmp_path / "other", catalog)
    make_trainer(recommender_model=knowingly, **settings)


def test_titles_decide_an_evaluation_where_the_prompts_hold_them(run, catalog, splits, tmp_path):
    def titles(**settings):
        folder = run(**settings)
        (folder / "model.safetensors").write_bytes(b"weights")
        args = EvaluateArguments(run=str(folder), data="data")
        return [
            planned(args, one, data_provenance(one, splits)).settings.get("titles")
            for one in (replace(catalog, titles=tuple(f"{word} {i}" for i in range(48))) for word in ("Film", "Movie"))
        ]

    first, second = titles(prompt_template="Seen: {titles}. {history}")
    assert first and second and first != second
    assert titles(prompt_template="Seen: {history}") == titles() == [None, None]


def test_scores_over_the_vocabulary_are_another_evaluation_beside_the_run(run, catalog, splits):
    folder = run()
    (folder / "model.safetensors").write_bytes(b"weights")
    asked = [EvaluateArguments(run=str(folder), data="data", normalization=name) for name in ("trie", "vocabulary")]
    trie, whole = (planned(args, catalog, data_provenance(catalog, splits)).settings for args in asked)
    assert whole == trie | {"normalization": "vocabulary"} and "normalization" not in trie
    assert [output_folder(args).name for args in asked] == ["run", "run_vocabulary"]
    with raises(InputError, field="normalization"):
        EvaluateArguments(run=str(folder), data="data", normalization="vocabulary", exact_users=5)


def test_what_ten_draws_show_by_the_exact_distribution(policy, catalog, tokenizer, splits):
    prompts = PromptBuilder(catalog, tokenizer, max_history=6)
    found = drawn_metrics(GenerativeRecommender(policy, prompts, catalog), splits.test, batch_size=5)
    rows = splits.test.to_list()
    p = policy.distribution(prompts(rows)).exp()  # [users, items]
    first = catalog.trie.codes(torch.arange(len(catalog)))[:, 0]
    codes = torch.zeros(len(p), int(first.max()) + 1).index_add_(1, first, p)
    target = p[range(len(p)), [row["target"] for row in rows]]
    assert found["drawn_recall@10"] == pytest.approx((1 - (1 - target) ** 10).mean().item(), rel=1e-4)
    assert found["drawn_first_codes@10"] == pytest.approx((1 - (1 - codes) ** 10).sum(1).mean().item(), rel=1e-4)


def test_the_other_protocol_needs_lists_with_ten_others(catalog, splits):
    rows = splits.test
    everything = np.tile(np.arange(48), (len(rows), 1))
    found = unseen_metrics(everything, rows, catalog)
    hits = 0
    for row in rows.to_list():
        hits += row["target"] in [item for item in range(48) if item not in row["history"]][:10]
    assert found["unseen_recall@10"] == pytest.approx(hits / len(rows))
    history = max(rows["history"], key=len)
    seen = np.concatenate([history, [item for item in range(48) if item not in history]])
    short = np.tile(seen, (len(rows), 1))[:, : len(set(history)) + 9]
    assert unseen_metrics(short, rows, catalog) == {}
