"""A trained policy as a recommender, against the exact distribution of a small catalog."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from catalog import Catalog, node_tokens, word_tokenizer
from catalog.errors import InputError
from interactions.prompts import PromptBuilder
from policy import policy_of
from recommenders import GenerativeRecommender, Guide, Popularity, load_recommender
from recommenders.policy_folder import count_items
from tests.raising import raises

HISTORIES = [["item3"], ["item1", "item8", "item40"], ["item5", "item5", "item6", "item7", "item9", "item11"]]
COUNTS = torch.arange(48)


@pytest.fixture
def recommender(policy, catalog, tokenizer):
    return GenerativeRecommender(policy, PromptBuilder(catalog, tokenizer, max_history=4), catalog, COUNTS)


def exact(recommender, history):
    """log P_F of every item after one history, [items]."""
    numbers = [recommender.ids.number[item] for item in history]
    return recommender.policy.distribution(recommender.prompts([{"history": numbers}]))[0]


def test_recommendations_are_the_most_probable_items_that_the_user_does_not_have(recommender):
    for history, ranked in zip(HISTORIES, recommender.recommend(HISTORIES, k=7, beam_width=48), strict=True):
        log_p = exact(recommender, history)
        best = [f"item{n}" for n in log_p.argsort(descending=True).tolist() if f"item{n}" not in history][:7]
        assert list(ranked.items) == best
        assert ranked.scores == pytest.approx(tuple(float(log_p[int(item[4:])]) for item in best), abs=1e-4)
        assert (ranked.source, ranked.unknown, ranked.error) == ("policy", 0, None)
    with_seen = recommender.recommend(HISTORIES, k=48, exclude_seen=False)
    assert all(sorted(ranked.items) == sorted(recommender.catalog.item_ids) for ranked in with_seen)


def test_a_batch_gives_what_each_history_gives_alone(recommender):
    together = recommender.recommend(HISTORIES, k=5, batch_size=2)
    alone = [recommender.recommend([history], k=5)[0] for history in HISTORIES]
    assert [ranked.items for ranked in together] == [ranked.items for ranked in alone]


def test_one_bad_history_does_not_fail_the_others(recommender):
    bad = [HISTORIES[0], None, ["item1", 2.5], "item1", ["nobody", "item8"], []]
    found = recommender.recommend(bad, k=3)
    assert [ranked.error is None for ranked in found] == [True, False, False, False, True, True]
    assert [len(ranked) for ranked in found] == [3, 0, 0, 0, 3, 3]
    assert found[4].unknown == 1 and found[4].items == recommender.recommend([["item8"]], k=3)[0].items
    assert recommender.recommend([], k=3) == []


def test_without_a_known_item_the_most_popular_items_of_training_come(recommender):
    (ranked,) = recommender.recommend([["nobody", "nothing"]], k=3, exclude=["item46"])
    assert (ranked.items, ranked.source, ranked.unknown) == (("item47", "item45", "item44"), "popularity", 2)
    shares = (COUNTS + 1) / (COUNTS + 1).sum()
    assert ranked.scores[0] == pytest.approx(math.log(shares[47]))
    (ranked,) = recommender.recommend([[]], k=3, filter=lambda item: item in ("item2", "item9"))
    assert ranked.items == ("item9", "item2")


def test_items_that_are_excluded_do_not_come_and_those_of_a_filter_alone_do(recommender):
    (plain,) = recommender.recommend(HISTORIES[:1], k=5, beam_width=48)
    (without,) = recommender.recommend(HISTORIES[:1], k=5, beam_width=48, exclude=[plain.items[0], "unknown"])
    assert without.items[:4] == plain.items[1:]
    each = recommender.recommend([HISTORIES[0]] * 2, k=5, beam_width=48, exclude=[[plain.items[0]], []])
    assert [ranked.items for ranked in each] == [without.items, plain.items]
    stock = {"item2", "item9", "item30", "unknown"}
    (some,) = recommender.recommend(HISTORIES[:1], k=5, beam_width=3 + 2, filter=stock)
    log_p = exact(recommender, HISTORIES[0])
    assert list(some.items) == sorted(stock - {"unknown"}, key=lambda item: -log_p[int(item[4:])])
    (none,) = recommender.recommend(HISTORIES[:1], k=5, filter=[])
    assert none.items == () and none.error
    with raises(InputError, field="exclude"):
        recommender.recommend(HISTORIES, exclude=[["item1"]])


def test_a_guide_ranks_by_the_product(recommender):
    popular = Popularity(COUNTS.float() + 1)
    (ranked,) = recommender.recommend(HISTORIES[:1], k=6, beam_width=48, guide=popular, guide_weight=2.0)
    chances = popular.probabilities([[3]])[0].clamp(min=1e-5)
    value = exact(recommender, HISTORIES[0]) + 2.0 * chances.log()
    value[3] = -torch.inf
    assert list(ranked.items) == [f"item{n}" for n in value.argsort(descending=True)[:6].tolist()]


def test_diversity_takes_off_what_codes_items_share(recommender, catalog):
    (plain,) = recommender.recommend(HISTORIES[:1], k=10, beam_width=48)
    (varied,) = recommender.recommend(HISTORIES[:1], k=10, beam_width=48, diversity=50.0)
    (barely,) = recommender.recommend(HISTORIES[:1], k=10, beam_width=48, diversity=1e-6)
    assert barely.items == plain.items and varied.items[0] == plain.items[0]

    def first_codes(ranked):
        numbers = torch.tensor([recommender.ids.number[item] for item in ranked.items])
        return len(catalog.trie.codes(numbers)[:, 0].unique())

    assert first_codes(varied) == 4 > first_codes(plain)  # all first codes that there are
    log_p = exact(recommender, HISTORIES[0])
    assert varied.scores == pytest.approx(
        [float(log_p[recommender.ids.number[item]]) for item in varied.items], abs=1e-4
    )


def test_draws_are_in_proportion_to_the_policy(recommender):
    (drawn,) = recommender.sample(HISTORIES[:1], n=4000, seed=3)
    log_p = exact(recommender, HISTORIES[0])
    shares = torch.zeros(48)
    for item in drawn.items:
        shares[int(item[4:])] += 1 / 4000
    assert float((shares - log_p.exp()).abs().sum()) / 2 < 0.05
    assert drawn.scores[0] == pytest.approx(float(log_p[int(drawn.items[0][4:])]), abs=1e-4)
    assert recommender.sample(HISTORIES[:1], n=4000, seed=3)[0] == drawn
    (sharp,) = recommender.sample(HISTORIES[:1], n=50, temperature=0.01)
    assert set(sharp.items) == {f"item{int(log_p.argmax())}"}
    (popular,) = recommender.sample([[]], n=2000)
    assert popular.source == "popularity"
    assert np.mean([int(item[4:]) for item in popular.items]) == pytest.approx(31.6, abs=1.5)


def test_log_probs_are_those_of_the_exact_distribution(recommender):
    asked = [["item0", "item47", "nobody"], [], ["item12"]]
    found = recommender.log_probs(HISTORIES, asked)
    assert [len(row) for row in found] == [3, 0, 1] and math.isnan(found[0][2])
    assert found[0][:2] == pytest.approx([float(exact(recommender, HISTORIES[0])[n]) for n in (0, 47)], abs=1e-4)
    assert recommender.log_probs([[]], [["item47"]])[0] == pytest.approx([math.log(48 / (48 * 47 / 2 + 48))])
    with raises(InputError, field="items"):
        recommender.log_probs(HISTORIES, [["item0"]])


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("k", {"k": 0}),
        ("k", {"k": 49}),
        ("beam_width", {"k": 10, "beam_width": 9}),
        ("diversity", {"diversity": -1.0}),
        ("guide_weight", {"guide_weight": 0.0}),
        ("batch_size", {"batch_size": 0}),
    ],
)
def test_settings_that_no_history_could_be_ranked_with_are_refused(recommender, field, settings):
    with raises(InputError, field=field):
        recommender.recommend(HISTORIES, **settings)


def test_as_a_recommender_it_scores_the_whole_catalog(recommender):
    chances = recommender.probabilities([[3], [], [5, 6]])
    assert chances.shape == (3, 48) and torch.allclose(chances.sum(1), torch.ones(3), atol=1e-4)
    assert torch.allclose(chances[0], exact(recommender, ["item3"]).exp(), atol=1e-6)
    assert torch.allclose(chances[1], (COUNTS + 1) / (COUNTS + 1).sum())


def test_items_that_share_a_semantic_id_come_one_after_the_other(make_model):
    codes = np.random.default_rng(0).integers(0, [2, 3, 3], (48, 3))
    shared = Catalog.from_codes([f"item{i}" for i in range(48)], codes, on_collision="keep")
    tokens = word_tokenizer(shared.trie.sizes)
    policy = policy_of(make_model(vocab_size=len(tokens)), shared.trie, node_tokens(tokens, shared.trie))
    recommender = GenerativeRecommender(policy, PromptBuilder(shared, tokens, max_history=4), shared, COUNTS)
    (ranked,) = recommender.recommend([["item3"]], k=47)
    assert sorted(ranked.items) == sorted(f"item{i}" for i in range(48) if i != 3)
    assert len(set(ranked.scores)) < 20
    assert torch.allclose(recommender.probabilities([[3]]).sum(), torch.tensor(1.0), atol=1e-4)
    (drawn,) = recommender.sample([["item3"]], n=500)
    firsts = {shared.item_ids[n] for n in shared.trie.representative(torch.arange(48)).tolist()}
    assert set(drawn.items) - firsts  # not the first item of each leaf alone


def test_a_wide_beam_is_the_exact_ranking_of_the_leaves(recommender):
    histories = [[3], [1, 8, 40]]
    for exclude in (True, False):
        beam = recommender.rank(histories, 48, exclude_history=exclude)
        assert (recommender.rank_exactly(histories, 20, exclude_history=exclude) == beam[:, :20]).all()
        assert (recommender.rank(histories, 48, exclude_history=exclude, k=5) == beam[:, :5]).all()


def test_events_of_training_rows_are_counted():
    rows = Dataset.from_list([{"history": [1, 2], "target": 0}, {"history": [2], "target": 2}])
    assert count_items(rows, 4).tolist() == [1, 1, 3, 0]


@pytest.fixture
def run(make_trainer, tmp_path):
    """The folder of a short run."""
    trainer = make_trainer(rewards={"hit": 1.0, "similarity": 0.5}, samplers={"target": 1, "random": 2})
    trainer.train()
    trainer.save_model()
    return tmp_path / "run"


def test_a_run_recommends_by_its_folder_alone(run, tmp_path, catalog):
    (tmp_path / "elsewhere").mkdir()
    moved = run.rename(tmp_path / "elsewhere" / "model")
    recommender = GenerativeRecommender.from_pretrained(moved)
    assert recommender.catalog.fingerprint == catalog.fingerprint and recommender.prompts.max_history == 6
    (ranked,) = recommender.recommend([["item3", "item9"]], k=5)
    assert len(ranked) == 5 and "item3" not in ranked.items
    record = recommender.record
    assert record.method == "gflownet" and record.reward["rewards"] == {"hit": 1.0, "similarity": 0.5}
    card = (moved / "README.md").read_text()
    assert "gflownet" in card and "48 items" in card and str(tmp_path) not in card

    recommender.save_pretrained(tmp_path / "copy")
    again = GenerativeRecommender.from_pretrained(tmp_path / "copy")
    assert again.recommend([["item3", "item9"]], k=5) == [ranked]


def test_a_trained_policy_is_a_recommender_like_others(run, catalog, train_rows):
    loaded = load_recommender(run, catalog, {"train": train_rows, "validation": train_rows})
    assert torch.allclose(loaded.probabilities([[3, 9]]).sum(), torch.tensor(1.0), atol=1e-4)
    other = train_rows.select(range(10))
    with raises(InputError, field="splits.train"):
        load_recommender(run, catalog, {"train": other})


def test_a_checkpoint_that_is_not_self_contained_says_how_to_complete_it(run):
    (run / "policy.json").unlink()
    (run / "complete.json").unlink()
    (run / "resolved.yaml").unlink()
    with raises(InputError, file=run):
        GenerativeRecommender.from_pretrained(run)
    with raises(InputError):
        GenerativeRecommender.from_pretrained(run / "nowhere")


def test_what_is_no_engine_or_dtype_is_refused(run):
    for field, settings in {
        "dtype": {"dtype": "int8"},
        "device": {"device": "gpu"},
        "engine": {"engine": "tensorflow"},
        "engine_settings": {"engine_settings": {"a": 1}},
    }.items():
        with raises(InputError, field=field):
            GenerativeRecommender.from_pretrained(run, **settings)


def test_guide_reads_histories_alone(recommender, rows):
    guide = Guide(Popularity(COUNTS.float() + 1))
    steps = guide(recommender.prompts(rows), recommender.policy.trie)(torch.zeros(4, 1, dtype=torch.long), 0)
    assert steps.shape == (4, 1, recommender.catalog.trie.max_children[0]) and float(steps.max()) <= 0


@pytest.mark.parametrize("given", ["item1", [2.5], [["item1"], 7, None], 5, [["item1"], [None], []]])
def test_what_is_no_list_of_ids_to_leave_out_is_refused_and_not_passed_over(recommender, given):
    with raises(InputError, field="exclude"):
        recommender.recommend(HISTORIES, exclude=given)
    if not isinstance(given, list) or given == [2.5]:
        with raises(InputError, field="filter"):
            recommender.recommend(HISTORIES, filter=given)


def test_numbers_are_ids_wherever_ids_are_given(make_model, tokenizer, catalog):
    numbered = replace(catalog, item_ids=tuple(map(str, range(48))))
    policy = policy_of(make_model(), catalog.trie, node_tokens(tokenizer, catalog.trie))
    recommender = GenerativeRecommender(policy, PromptBuilder(numbered, tokenizer, max_history=4), numbered, COUNTS)
    for exclude, stock in ([["4", "5"], ["1", "5", "9"]], [[4, 5], [1, 5, 9]], [np.array([4, 5]), np.array([1, 5, 9])]):
        (ranked,) = recommender.recommend([[3, "7"]], k=5, exclude=exclude, filter=stock)
        assert set(ranked.items) == {"1", "9"} and ranked.unknown == 0
    assert recommender.log_probs([[3]], [[5]]) == recommender.log_probs([["3"]], [["5"]])


def test_no_diversity_and_no_temperature_that_is_allowed_gives_no_numbers(recommender):
    (ranked,) = recommender.recommend(HISTORIES[:1], k=10, diversity=1e308)
    assert len(set(ranked.items)) == 10
    assert recommender.sample([[]], n=3, temperature=1e-9)[0].items == ("item47",) * 3
    for temperature in (1e-30, 1e30):
        assert all(len(drawn) == 5 for drawn in recommender.sample([[], *HISTORIES], n=5, temperature=temperature))
    for temperature in (1e-320, 1e308):
        with raises(InputError, field="temperature"):
            recommender.sample(HISTORIES, temperature=temperature)
    with raises(InputError, field="seed"):
        recommender.sample(HISTORIES, seed=-1)
