import datasets
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import recommenders.sasrec
from interactions import Splits
from recommenders import SASRec, rank
from recommenders.sasrec import Network, _loss, _unseen, _validate, _windows

SMALL = dict(max_length=8, dimensions=16, layers=1, heads=2, dropout=0.1, learning_rate=0.01, batch_size=16)
SOFT = SASRec.Settings(**SMALL, epochs=8)


@pytest.fixture(scope="module")
def fitted(successors):
    return SASRec.from_splits(successors, 24, SOFT)


def hits(model: SASRec, splits: Splits) -> float:
    rows = splits.test
    best = rank(model.score(rows["history"][:]), rows["history"][:], 1)[:, 0]
    return (best == rows["target"][:]).mean()


def test_softmax_learns_what_follows_what(fitted, successors):
    assert hits(fitted, successors) > 0.95  # chance is about 1 in 15


def test_bce_learns_what_follows_what(successors):
    model = SASRec.from_splits(successors, 24, SASRec.Settings(**SMALL, epochs=25, patience=25, loss="bce"))
    assert hits(model, successors) > 0.9


def test_the_losses_by_hand():
    torch.manual_seed(0)
    network, seen = Network(5, SASRec.Settings(**SMALL)).eval(), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]])
    windows = [[0, 1, 2], [2, 0]]  # 1 after 0, 2 after 0 and 1, 0 after 2; negatives can only be 4, 4, 3
    logits = torch.stack(
        [*network.logits(network(torch.tensor([[0, 1]])))[0], network.logits(network(torch.tensor([[2]])))[0, 0]]
    )
    softmax = -logits.log_softmax(-1)[range(3), [1, 2, 0]].mean()
    torch.testing.assert_close(_loss(network, windows, None), softmax)
    likely, unlikely = logits[range(3), [1, 2, 0]].sigmoid(), 1 - logits[range(3), [4, 4, 3]].sigmoid()
    torch.testing.assert_close(_loss(network, windows, seen.bool()), -(likely.log() + unlikely.log()).mean())


def test_negatives_are_items_the_user_never_took(successors, monkeypatch):
    drawn = []

    def loss(network, windows, seen):
        drawn.extend(zip(windows, seen, strict=True))
        return network.item.weight.sum()

    monkeypatch.setattr(recommenders.sasrec, "_loss", loss)
    SASRec.from_splits(successors, 24, SASRec.Settings(**SMALL, epochs=1, loss="bce"))
    histories = [set(history) for history in successors.validation["history"][:]]
    for window, seen in drawn:
        taken = set(seen.nonzero()[:, 0].tolist())
        assert taken in histories and taken >= set(window)


def test_negatives_are_uniform_over_what_is_left():
    torch.manual_seed(0)
    seen = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 1, 1]]).bool()
    share = torch.nn.functional.one_hot(_unseen(seen, 6000), 6).float().mean(1)
    torch.testing.assert_close(share, torch.tensor([[0, 1, 0, 1, 1, 0], [3, 0, 0, 0, 0, 0]]) / 3, atol=0.03, rtol=0)


def test_a_user_who_took_everything_is_one_sentence(successors, monkeypatch):
    monkeypatch.setattr(recommenders.sasrec, "training_matrix", lambda splits, items: csr_matrix(np.ones((2, items))))
    with pytest.raises(ValueError, match="one user took all. Use loss=softmax"):
        SASRec.from_splits(successors, 24, SASRec.Settings(**SMALL, loss="bce"))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_does_not_look_ahead(training):
    torch.manual_seed(0)
    network = Network(24, SASRec.Settings(**SMALL | {"dropout": 0.0})).train(training)
    history = torch.randint(24, (3, 8))
    later = torch.cat([history[:, :5], (history[:, 5:] + 1) % 24], 1)
    states, changed = network(history), network(later)
    torch.testing.assert_close(states[:, :5], changed[:, :5])
    assert (states[:, 5:] - changed[:, 5:]).abs().amin(1).max() > 1e-3
    assert (network(history.flip(1)[:, :5]) - states[:, :5]).abs().max() > 1e-3


def test_a_score_depends_on_the_newest_items_of_its_own_row_alone(fitted):
    alone = fitted.score([[3, 10, 17]])
    torch.testing.assert_close(fitted.score([[5], [3, 10, 17], list(range(8))])[[1]], alone)
    torch.testing.assert_close(fitted.score([[9, 9, 1, 2, 3, 4, 5, 6, 7, 8]]), fitted.score([[1, 2, 3, 4, 5, 6, 7, 8]]))
    assert (fitted.score([[10, 3, 17]]) - alone).abs().max() > 1e-3


def test_an_empty_history_says_nothing(fitted):
    torch.testing.assert_close(fitted.score([[], [1]])[0], torch.zeros(24))
    torch.testing.assert_close(fitted.probabilities([[]]), torch.full((1, 24), 1 / 24))


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_the_seed_settles_the_weights_and_the_caller_keeps_its_random_state(successors, loss):
    def weights(seed):
        model = SASRec.from_splits(successors, 24, SASRec.Settings(**SMALL, epochs=1, seed=seed, loss=loss))
        return model.network.item.weight

    torch.manual_seed(5)
    first, drawn = weights(0), torch.rand(3)
    torch.manual_seed(6)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best(successors, monkeypatch):
    ndcg, weights = iter([0.1, 0.3, 0.2, 0.3, 0.9]), []

    def validate(model, rows):
        weights.append(model.network.item.weight.detach().clone())
        return 0.0, next(ndcg)

    monkeypatch.setattr(recommenders.sasrec, "_validate", validate)
    model = SASRec.from_splits(successors, 24, SASRec.Settings(**SMALL, epochs=9, patience=2))
    assert len(weights) == 4
    assert torch.equal(model.network.item.weight, weights[1])


def test_each_item_but_the_first_is_a_target_once():
    sequences = [list(range(n)) for n in (0, 1, 2, 8, 9, 10, 23)]
    windows = list(_windows(sequences, 8))
    for user, sequence in enumerate(sequences):
        assert sorted(item for u, window in windows if u == user for item in window[1:]) == sequence[1:]
    assert max(len(window) for _, window in windows) == 9


def test_validation_counts_hits_among_unseen_items():
    class Fixed:
        def score(self, histories):
            return torch.arange(20.0, 0, -1).expand(len(histories), -1)

    rows = datasets.Dataset.from_list(
        [{"history": [0], "target": 1}, {"history": [3, 0], "target": 4}, {"history": [5], "target": 15}]
    )
    recall, ndcg = _validate(Fixed(), rows)
    assert recall == pytest.approx(2 / 3)
    assert ndcg == pytest.approx((1 + 1 / 2) / 3)  # places 1 and 3: 1 / log2(1 + 3) = 1 / 2


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss='hinge' is not a loss of SASRec. Set softmax or bce."):
        SASRec.Settings(loss="hinge")
