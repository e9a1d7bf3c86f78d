from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch

from recommenders import ALS, BPR, rank
from recommenders.base import fit_temperature

SETTINGS = {
    ALS: ALS.Settings(dimensions=2, ridge=1.0),
    BPR: BPR.Settings(dimensions=4, learning_rate=0.02, iterations=50),
}


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda kind: kind.__name__)
def fitted(request, blocks):
    return request.param.from_splits(blocks, 40, SETTINGS[request.param])


def test_users_are_shown_the_items_of_their_own_group(fitted):
    histories = [[0, 6, 12], [1, 7, 13], [20]]
    ranked = rank(fitted.score(histories), histories, 15)
    for row, parity in zip(ranked, (0, 1, 0), strict=True):
        assert (row % 2 == parity).mean() > 0.9


def test_a_row_is_folded_in_by_itself(fitted):
    histories = [[0, 6, 12], [], [1] * 30, [39]]
    together = fitted.score(histories)
    alone = torch.cat([fitted.score([history]) for history in histories])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(together[1], torch.zeros(40))


def test_folding_in_minimizes_what_it_says():
    y = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    model, history = ALS(y, alpha=2.0, decay=0.5, ridge=0.7), [4, 1, 4]
    u = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([u], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12)

    def loss():
        optimizer.zero_grad()
        weight = 2.0 * torch.tensor([0.25, 0.5, 1.0])
        value = (weight * (1 - y[history] @ u) ** 2).sum() + ((y @ u) ** 2).sum() + 0.7 * (u**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(model.score([history])[0], y @ u.detach(), rtol=1e-3, atol=1e-4)


def test_without_decay_the_order_is_irrelevant_and_with_it_the_newest_counts_most(fitted):
    even_last, odd_last = [1, 3, 5, 0, 2, 4], [0, 2, 4, 1, 3, 5]
    timeless, hasty = replace(fitted, decay=1.0), replace(fitted, decay=0.3)
    torch.testing.assert_close(timeless.score([odd_last]), timeless.score([odd_last[::-1]]), rtol=1e-3, atol=1e-5)
    for history, parity in ((even_last, 0), (odd_last, 1)):
        assert (rank(hasty.score([history]), [history], 10) % 2 == parity).mean() > 0.7


def test_the_seed_settles_the_factors(fitted, blocks):
    settings = SETTINGS[type(fitted)]
    again, other = (type(fitted).from_splits(blocks, 40, replace(settings, seed=seed)) for seed in (0, 1))
    assert torch.equal(fitted.factors, again.factors) and not torch.equal(fitted.factors, other.factors)


def test_the_temperature_is_the_most_likely_one(fitted, blocks):
    def likelihood(temperature):
        logits = fitted.score(blocks.validation["history"][:]) / temperature
        return -torch.nn.functional.cross_entropy(logits, torch.tensor(blocks.validation["target"][:]))

    best = likelihood(fitted.temperature)
    assert all(best >= likelihood(fitted.temperature * factor) for factor in (0.5, 0.9, 1.1, 2.0))
    expected = (fitted.score([[0]]) / fitted.temperature).softmax(-1)
    torch.testing.assert_close(fitted.probabilities([[0]]), expected)


def test_a_known_temperature_is_found():
    class Fixed:
        def score(self, histories):
            return torch.tensor([[3.0, 0.0]]).expand(len(histories), -1)

    rows = datasets.Dataset.from_list([{"history": [0], "target": int(i % 4 == 0)} for i in range(400)])
    assert fit_temperature(Fixed(), rows) == pytest.approx(3 / np.log(3), rel=1e-3)  # odds of 3 to 1
