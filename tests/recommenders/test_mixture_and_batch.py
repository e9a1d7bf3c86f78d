import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import sparse

from recommenders import BatchRecommender, Guide, ItemKNN, Mixture, Popularity
from recommenders.confidence import confidence

MATRIX = sparse.csr_matrix((np.random.default_rng(0).random((20, 48)) < 0.2).astype(np.float32))
OWN = [row.indices.tolist() for row in MATRIX[:4]]
PARTS = {"popularity": Popularity.fit(MATRIX), "item_knn": ItemKNN.fit(MATRIX, decay=0.8)}
HISTORIES = [[0, 5, 3], [7], []]


@pytest.mark.parametrize("name", PARTS)
def test_a_mixture_of_one_is_that_one(name):
    mixture = Mixture({name: PARTS[name]}, {name: 0.3})
    torch.testing.assert_close(mixture.probabilities(HISTORIES), PARTS[name].probabilities(HISTORIES))
    torch.testing.assert_close(mixture.score(HISTORIES), PARTS[name].probabilities(HISTORIES))


def test_weights_are_shares():
    popularity, knn = (part.probabilities(HISTORIES) for part in PARTS.values())
    mixed = Mixture(PARTS, {"popularity": 1, "item_knn": 3}).probabilities(HISTORIES)
    torch.testing.assert_close(mixed, 0.25 * popularity + 0.75 * knn)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(3))


def test_a_mixture_leaves_out_what_its_parts_leave_out():
    popularity, knn = (part.probabilities(HISTORIES, OWN[:3]) for part in PARTS.values())
    mixed = Mixture(PARTS, {"popularity": 1, "item_knn": 1}).probabilities(HISTORIES, OWN[:3])
    torch.testing.assert_close(mixed, (popularity + knn) / 2)


@pytest.mark.parametrize(
    "weights", [{"popularity": 1}, {"popularity": 0, "item_knn": 0}, {"popularity": -1, "item_knn": 2}, {}]
)
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ValueError, match="Give each part one weight >= 0, and one of them a positive weight"):
        Mixture(PARTS, weights)


def test_the_recommender_reads_the_histories_of_the_batch(prompts, rows):
    recommender = BatchRecommender(PARTS["item_knn"])
    expected = PARTS["item_knn"].probabilities([row["history"][-5:] for row in rows])
    torch.testing.assert_close(recommender(prompts), expected)


def test_the_recommender_leaves_the_user_s_own_sequence_out(prompts, rows):
    taught = BatchRecommender(PARTS["item_knn"])(replace(prompts, user_items=OWN))
    torch.testing.assert_close(taught, PARTS["item_knn"].probabilities([row["history"][-5:] for row in rows], OWN))
    assert (taught - BatchRecommender(PARTS["item_knn"])(prompts)).abs().max() > 1e-3


def test_the_recommender_is_asked_once_for_a_batch_and_again_for_the_next(prompts):
    asked = []

    class Counting(Popularity):
        def probabilities(self, histories, without=None):
            asked.append(len(histories))
            return super().probabilities(histories, without)

    recommender = BatchRecommender(Counting(PARTS["popularity"].counts))
    first = recommender(prompts)
    assert recommender(prompts) is first and asked == [4]
    assert recommender(prompts.copy()) is first and asked == [4]  # as a reward and samplers get it
    recommender(prompts.rows(0, 2))
    recommender(replace(prompts, user_items=OWN))
    recommender(prompts)
    assert asked == [4, 2, 4, 4]


def test_answers_that_were_begun_are_found_and_others_dropped(prompts):
    asked = []

    class Counting(Popularity):
        def probabilities(self, histories, without=None):
            asked.append((len(histories), threading.current_thread() is threading.main_thread()))
            return super().probabilities(histories, without)

    recommender = BatchRecommender(Counting(PARTS["popularity"].counts), ahead=True)
    recommender(prompts.rows(0, 3))  # as a check before training does
    recommender.start(prompts.rows(0, 1))
    first = recommender(prompts.rows(0, 1))
    assert asked == [(3, True), (1, True)] and not first.requires_grad  # nothing was asked before of such a batch
    parts = [prompts.rows(0, 2), prompts.rows(1, 4), replace(prompts, user_items=OWN)]
    for part in parts:
        recommender.start(part)
    taught = recommender(parts[2].copy())  # those before it are never asked for
    torch.testing.assert_close(taught, PARTS["popularity"].probabilities([[]] * 4, OWN))
    assert asked[2:] == [(2, False), (3, False), (4, False)]
    recommender(parts[0])
    assert asked[5:] == [(2, True)]


class Sure:
    """For users of odd items sure of one item, right or not; of the others it knows nothing."""

    def __init__(self, step):
        self.step = step

    def probabilities(self, histories, without=None):
        answer = torch.full((len(histories), 48), 1 / 48)
        for row, history in enumerate(histories):
            if history[-1] % 2:
                answer[row] = 0.1 / 48
                answer[row, (history[-1] + self.step) % 48] += 0.9
        return answer


def test_confidence_is_0_where_nothing_is_known_and_1_where_all_is():
    one = torch.nn.functional.one_hot(torch.tensor([3]), 48).float()
    torch.testing.assert_close(confidence(torch.cat([torch.full((1, 48), 1 / 48), one])), torch.tensor([0.0, 1.0]))


def test_fitted_shares_find_the_part_that_is_right_and_when_it_is():
    histories = [[item] for item in range(48)]
    followed = [(item + (1 if item % 2 else 5)) % 48 for item in range(48)]  # for odd ones as the first part says
    rows = Dataset.from_dict({"history": histories, "target": followed})
    even = torch.full((48, 48), 0.5 / 48)
    even[range(48), [(item + 5) % 48 for item in range(48)]] += 0.5

    class Fixed(Sure):
        def probabilities(self, histories, without=None):
            return even[[history[-1] for history in histories]]

    parts = {"right": Sure(1), "wrong": Sure(2), "other": Fixed(5)}
    likelihood = {}
    for fit in ("none", "weights", "confidence"):
        mixture = Mixture.of_parts(parts, Mixture.Settings(dict.fromkeys(parts, 1.0), fit), rows)
        chances = mixture.probabilities(histories)
        torch.testing.assert_close(chances.sum(1), torch.ones(48))
        likelihood[fit] = chances[range(48), followed].log().mean().item()
        if fit != "none":
            assert mixture.weights["right"] > 10 * mixture.weights["wrong"] or fit == "confidence"
            assert any(mixture.slopes.values()) == (fit == "confidence")
    assert likelihood["none"] < likelihood["weights"] - 0.05 < likelihood["confidence"] - 0.2


def test_a_guide_weighs_less_where_it_knows_less(catalog, prompts):
    sure = Sure(1)
    plain, careful = Guide(sure, 2.0)(prompts, catalog.trie), Guide(sure, 2.0, power=0.5)(prompts, catalog.trie)
    known = confidence(sure.probabilities(prompts.item_lists())).clamp(min=0)
    assert 0 in known and known.max() > 0.5
    root = torch.zeros(len(known), 1, dtype=torch.long)
    torch.testing.assert_close(careful(root, 0), plain(root, 0) * known.view(-1, 1, 1) ** 0.5)
