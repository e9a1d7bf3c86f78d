import datasets
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import recommenders.sasrec
import recommenders.sasrec_losses
from catalog.errors import InputError
from interactions import Splits
from recommenders import SASRec, rank
from recommenders.sasrec import Network, _positions, _validate
from recommenders.sasrec_losses import BCE, GBCE, SampledSoftmax, mixed, softmax, unseen
from recommenders.sasrec_windows import Windows
from tests.raising import raises

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


WINDOWS = [[0, 1, 2], [2, 0]]  # 1 after 0, 2 after 0 and 1, 0 after 2


@pytest.fixture
def by_hand():
    """A network of five items, its positions at `WINDOWS`, the logits there [3, 5] and those of what follows [3]."""
    network = Network(5, SASRec.Settings(**SMALL)).eval()
    at = _positions(network, WINDOWS, users=[0, 1])
    states = [*network(torch.tensor([[0, 1]]))[0], network(torch.tensor([[2]]))[0, 0]]
    logits = network.logits(torch.stack(states))
    assert at.target.tolist() == [1, 2, 0]
    return network, at, logits, logits[range(3), [1, 2, 0]]


def test_the_losses_by_hand(by_hand):
    network, at, logits, likely = by_hand
    torch.testing.assert_close(softmax(network, at), -logits.log_softmax(-1)[range(3), [1, 2, 0]].mean())
    taken = csr_matrix(np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]))  # negatives can only be 4, 4, 3
    unlikely = 1 - logits[range(3), [4, 4, 3]].sigmoid()
    torch.testing.assert_close(BCE(taken)(network, at), -(likely.sigmoid().log() + unlikely.log()).mean())


def test_gbce_by_hand(by_hand, monkeypatch):
    network, at, logits, likely = by_hand
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor([3, 1]))
    wrong = -(1 - logits[:, [3, 1]].sigmoid()).log()  # [3, 2]
    wrong[0, 1] = 0  # item 1 is what follows there
    for calibration, beta in ((0.0, 1.0), (1.0, 0.5), (0.5, 0.75)):  # a = 2 / 4
        expected = (-beta * likely.sigmoid().log() + wrong.sum(1)).mean() / 3
        torch.testing.assert_close(GBCE(2, calibration)(network, at), expected)


def test_a_sampled_softmax_of_many_items_is_the_full_one_whatever_they_are_drawn_from(by_hand):
    network, at, *_ = by_hand
    for q in (mixed(torch.tensor([90, 5, 3, 1, 1])), torch.full((5,), 0.2)):
        torch.testing.assert_close(q.sum(), torch.tensor(1.0))
        sampled = SampledSoftmax(q, 40_000)(network, at)
        torch.testing.assert_close(sampled, softmax(network, at), atol=0.02, rtol=0)


def test_negatives_are_items_the_user_never_took(successors, monkeypatch):
    drawn = []

    def draw(seen, count):
        drawn.append((seen, unseen(seen, count)))
        return drawn[-1][1]

    monkeypatch.setattr(recommenders.sasrec_losses, "unseen", draw)
    SASRec.from_splits(successors, 24, SASRec.Settings(**SMALL, epochs=1, loss="bce"))
    histories = [set(history) for history in successors.validation["history"][:]]
    for rows, negatives in drawn:
        assert not torch.from_numpy(rows.toarray()).gather(1, negatives).any()
        assert all(set(seen.nonzero()[0].tolist()) in histories for seen in rows.toarray())


@pytest.mark.parametrize(
    "settings",
    [
        {"layer": "hstu", "epochs": 8},
        {"layer": "ligr", "epochs": 8},
        {"loss": "sampled_softmax", "negatives": 12, "epochs": 10},
        {"loss": "gbce", "negatives": 12, "epochs": 40, "patience": 40},
    ],
    ids=lambda settings: next(iter(settings.values())),
)
def test_other_layers_and_losses_learn_what_follows_what(settings, successors):
    model = SASRec.from_splits(successors, 24, SASRec.Settings(**SMALL, **settings))
    assert hits(model, successors) > 0.7


def test_item_vectors_are_part_of_the_embeddings_and_of_what_is_stored(successors):
    text = torch.nn.functional.normalize(torch.randn(24, 5), dim=1)
    heard = []
    settings = SASRec.Settings(**SMALL, epochs=2)
    model = SASRec.from_splits(
        successors, 24, settings, text, lambda epoch, metrics: heard.append((epoch, {**metrics}))
    )
    network = model.network
    expected = network.item.weight[:24] + text @ network.project.weight.T
    torch.testing.assert_close(network.embed(torch.arange(24)), expected)
    torch.testing.assert_close(network.logits(torch.eye(16)), expected.T)
    assert not network.embed(torch.tensor([24])).any()
    assert torch.equal(SASRec.from_state(*model.state()).score([[3, 10]]), model.score([[3, 10]]))
    tensors, numbers = model.state()
    del numbers["scale"]  # as before embeddings were scaled
    with pytest.raises(InputError, match="earlier version. Fit it again"):
        SASRec.from_state(tensors, numbers)
    assert [epoch for epoch, _ in heard] == [1, 2] and heard[0][1].keys() == {"loss", "recall@10", "ndcg@10"}


def test_negatives_are_uniform_over_what_is_left():
    torch.manual_seed(0)
    seen = csr_matrix([[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 1, 1]])
    share = torch.nn.functional.one_hot(unseen(seen, 6000), 6).float().mean(1)
    torch.testing.assert_close(share, torch.tensor([[0, 1, 0, 1, 1, 0], [3, 0, 0, 0, 0, 0]]) / 3, atol=0.03, rtol=0)


def test_a_large_catalog_has_lazy_adam_for_its_items_and_learns(successors, monkeypatch):
    monkeypatch.setattr("recommenders.sasrec.DENSE_ITEMS", 20)
    settings = SASRec.Settings(**SMALL, epochs=8, loss="sampled_softmax", negatives=12)
    network = Network(24, settings)
    others, lazy = recommenders.sasrec._optimizers(network, settings)
    assert isinstance(lazy, torch.optim.SparseAdam) and lazy.param_groups[0]["params"] == [network.item.weight]
    assert len(others.param_groups[0]["params"]) == len(list(network.parameters())) - 1
    assert hits(SASRec.from_splits(successors, 24, settings), successors) > 0.9
    assert not Network(24, SOFT).item.sparse


def test_a_softmax_that_does_not_fit_is_refused_with_the_losses_that_do(successors, monkeypatch):
    monkeypatch.setattr("recommenders.sasrec_losses.SOFTMAX_BYTES", 10**15)
    with raises(InputError, field="loss"):
        SASRec.from_splits(successors, 24, SOFT)


def test_a_user_who_took_everything_is_one_sentence(successors, monkeypatch):
    monkeypatch.setattr(
        recommenders.sasrec_losses, "training_matrix", lambda splits, items: csr_matrix(np.ones((2, items)))
    )
    with pytest.raises(ValueError, match="one user took all. Use loss=softmax"):
        SASRec.from_splits(successors, 24, SASRec.Settings(**SMALL, loss="bce"))


@pytest.mark.parametrize("layer", ["sasrec", "hstu", "ligr"])
@pytest.mark.parametrize("training", [True, False])
def test_the_network_does_not_look_ahead(training, layer):
    torch.manual_seed(0)
    network = Network(24, SASRec.Settings(**SMALL | {"dropout": 0.0, "layer": layer})).train(training)
    history = torch.randint(24, (3, 8))
    later = torch.cat([history[:, :5], (history[:, 5:] + 1) % 24], 1)
    states, changed = network(history), network(later)
    torch.testing.assert_close(states[:, :5], changed[:, :5])
    torch.testing.assert_close(network(history[:, :5]), states[:, :5])  # however long the other rows are
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
    windows = list(Windows(datasets.Dataset.from_dict({"history": sequences}), 8))
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


@pytest.mark.parametrize(
    ("field", "value"), [("loss", "hinge"), ("layer", "mamba"), ("heads", 3), ("dropout", 1.0), ("negatives", 0)]
)
def test_what_cannot_be_is_refused(field, value):
    with raises(InputError, field="dimensions" if field == "heads" else field):
        SASRec.Settings(**{field: value})
