"""The rank penalty by hand."""

from dataclasses import replace
from math import log2, nan

import pytest
import torch

from catalog import PADDING
from rewards import Rank, RewardParts, WeightedSum, build_rewards

D = [1 / log2(place + 2) for place in range(4)]


@pytest.fixture
def drawn(shared, draw):
    """Trajectories with given log-probabilities of their three codes together, and with empty slots."""

    def drawn(items, log_p, empty=()):
        plain = draw(shared, items)
        source = plain.source.clone()
        for row, slot in empty:
            source[row, slot] = PADDING
        log_pf = (torch.tensor(log_p) / 3).unsqueeze(-1).expand(*plain.codes.shape)
        return replace(plain, log_pf=log_pf, source=source)

    return drawn


def near(*rows):
    return lambda value: torch.testing.assert_close(value, torch.tensor(rows))


def test_the_likelier_a_miss_the_more_it_costs_and_a_hit_is_free(shared, make_batch, drawn):
    value = Rank(shared)(make_batch([1]), drawn([[1, 2, 3, 5]], [[-2.0, -3.0, -1.0, -4.0]]))
    near([0.0, -D[2] / sum(D), -D[0] / sum(D), -D[3] / sum(D)])(value)  # places 1, 2, 0, 3


def test_a_hit_is_the_semantic_id(shared, make_batch, drawn):
    """Items 0 and 4 share a leaf."""
    value = Rank(shared)(make_batch([4]), drawn([[0, 4, 1]], [[-1.0, -2.0, -3.0]]))
    near([0.0, 0.0, -D[2] / sum(D[:3])])(value)


def test_without_a_hit_nothing_is_charged(shared, make_batch, drawn):
    two = drawn([[1, 2], [2, 1]], [[-1.0, -2.0], [-1.0, -2.0]])
    near([0.0, -D[1] / sum(D[:2])], [0.0, 0.0])(Rank(shared)(make_batch([1, 3]), two))


def test_what_no_policy_drew_comes_last_in_the_order_of_the_slots(shared, make_batch, drawn):
    value = Rank(shared)(make_batch([1]), drawn([[1, 2, 3, 5]], [[nan, -9.0, nan, -8.0]]))
    near([0.0, -D[1] / sum(D), -D[3] / sum(D), -D[0] / sum(D)])(value)  # places 2, 1, 3, 0


def test_empty_slots_neither_count_nor_hit(shared, make_batch, drawn):
    empty = [(0, 1), (1, 0)]
    likely = drawn([[1, 2, 3], [1, 2, 3]], [[-3.0, -1.0, -2.0], [-1.0, -2.0, -3.0]], empty)
    near([0.0, 0.0, -D[0] / sum(D[:2])], [0.0, 0.0, 0.0])(Rank(shared)(make_batch([1, 1]), likely))
    nothing = drawn([[1]], [[nan]], [(0, 0)])
    near([0.0])(Rank(shared)(make_batch([1]), nothing))


def test_only_a_signed_sum_takes_it(shared, make_batch, drawn):
    given = make_batch([1]), drawn([[1, 2]], [[-1.0, -2.0]])
    total = build_rewards({"hit": 1.0, "rank": 0.5}, RewardParts(shared), signed=True)
    assert not total.scores_catalog
    near([1.0, -0.5 * D[1] / sum(D[:2])])(total(*given))
    for build in (
        lambda: build_rewards({"rank": 1.0}, RewardParts(shared)),
        lambda: WeightedSum({"rank": Rank(shared)}),
    ):
        with pytest.raises(ValueError, match="Reward rank is a penalty: its values lie below 0.*Use it with grpo, or"):
            build()
