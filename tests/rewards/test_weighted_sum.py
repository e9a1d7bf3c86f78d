import math

import pytest
import torch

from rewards import RewardParts, WeightedSum, build_rewards, log_reward


def always(value):
    """A reward that returns `value`."""
    return lambda batch, trajectories: value


ONE, TWO = always(torch.tensor([[1.0, 0.0]])), always(torch.tensor([[2, 3]]))


def test_terms_are_weighted_and_added(shared, make_batch, draw):
    given = make_batch([0]), draw(shared, [[0, 1]])
    assert WeightedSum({"one": ONE, "two": TWO})(*given).tolist() == [[3.0, 3.0]]
    half = WeightedSum({"one": ONE, "two": TWO}, {"two": 0.5})
    assert half(*given).tolist() == [[2.0, 1.5]]
    assert {name: term.tolist() for name, term in half.terms(*given).items()} == {"one": [[1, 0]], "two": [[1, 1.5]]}
    assert WeightedSum({"one": ONE, "two": TWO}, {"one": 0, "two": 0})(*given).tolist() == [[0, 0]]


def test_rewards_named_in_a_recipe_are_weighted_and_added(shared, make_batch, draw):
    given = make_batch([0]), draw(shared, [[0, 1]])
    for prefix in (0.3, {"weight": 0.3}):
        value = build_rewards({"hit": 1.0, "prefix": prefix}, RewardParts(shared))(*given)
        torch.testing.assert_close(value, torch.tensor([[1.3, 0.2]]))
    assert build_rewards({"hit": {}}, RewardParts(shared))(*given).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (["one"], {"won": 1.0}, r"Weights are given for \['won'\], but the rewards are \['one'\]"),
        (["one"], {"one": -1.0}, "weight of reward one is -1.0"),
        (["one"], {"one": math.nan}, "weight of reward one is nan"),
        (["one"], {"one": math.inf}, "weight of reward one is inf"),
        (["one"], {"one": None}, "weight of reward one is None. Weights are finite numbers >= 0"),
        (["one"], {"one": "high"}, "weight of reward one is 'high'"),
        ([], {}, "No reward is given"),
    ],
)
def test_weights_that_make_no_sum_are_refused(names, weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedSum({name: ONE for name in names}, weights)


def test_what_a_reward_changes_in_place_changes_nothing_else(shared, make_batch, draw):
    batch, trajectories = make_batch([0], [[1, 2]], shelf=[[3, 4]]), draw(shared, [[0, 1]])

    def spoil(batch, trajectories):
        trajectories.items.fill_(2)
        trajectories.log_pf.numpy()[:] = 0
        batch.history[:], batch.target[:] = 0, 5
        batch.columns["shelf"][0].clear()
        return torch.ones(1, 2, requires_grad=True)

    seen = []

    def look(batch, trajectories):
        seen.append((trajectories.items.tolist(), batch.history.tolist(), batch.target.tolist(), batch.columns))
        return torch.ones(1, 2)

    assert not WeightedSum({"spoil": spoil, "look": look})(batch, trajectories).requires_grad
    look(batch, trajectories)
    assert seen == [([[0, 1]], [[1, 2]], [0], {"shelf": [[3, 4]]})] * 2 and trajectories.log_pf.isnan().all()


class Scored:
    """A reward of the whole catalog that is always `value`."""

    def __init__(self, value):
        self.value = value

    def __call__(self, batch, trajectories):
        return self.value.gather(1, trajectories.items)

    def catalog(self, batch):
        return self.value


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5])
def test_a_value_that_is_no_reward_is_named_by_reward_trajectory_user_and_item(value, shared, make_batch, draw):
    values = torch.ones(2, 6)
    values[1, 2] = value
    rewards, drawn = {"one": always(torch.ones(2, 2)), "mine": Scored(values)}, draw(shared, [[0, 1], [0, 2]])
    batch = make_batch([0, 1], user=["u3", "u7"])
    fault = rf"Reward mine is {value} for trajectory 1 of user 'u7', item 'i2' with the semantic ID \[0, 1, 0\]\. "
    with pytest.raises(ValueError, match=fault + "Rewards are finite and >= 0"):
        WeightedSum(rewards, catalog=shared)(batch, drawn)
    with pytest.raises(ValueError, match="trajectory 1 of user 1, item 2. Rewards"):
        WeightedSum(rewards)(make_batch([0, 1]), drawn)
    with pytest.raises(ValueError, match=rf"mine is {value} for user 'u7', item 'i2' with the semantic ID \[0, 1, 0\]"):
        WeightedSum({"mine": Scored(values)}, catalog=shared).catalog(batch)


def test_a_signed_sum_takes_values_below_0_and_still_no_nan(shared, make_batch, draw):
    given = make_batch([0]), draw(shared, [[0, 1]])
    assert WeightedSum({"mine": always(torch.tensor([[-1.0, 2.0]]))}, {"mine": 0.5}, signed=True)(*given).tolist() == [
        [-0.5, 1.0]
    ]
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=rf"mine is {value} for trajectory 1 .*Rewards are finite; shift or clip"):
            WeightedSum({"mine": always(torch.tensor([[-1.0, value]]))}, signed=True)(*given)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.ones(2), r"shape \(2,\)"),
        (torch.ones(2, 1), r"shape \(2, 1\)"),
        (torch.ones(3, 2), r"shape \(3, 2\)"),
        ([[1.0, 1.0, 1.0]] * 2, "a list"),
        (None, "a NoneType"),
    ],
)
def test_a_result_that_is_no_tensor_of_one_value_each_is_refused(value, what, shared, make_batch, draw):
    with pytest.raises(ValueError, match=rf"Reward mine returned {what} for a tensor \[2, 3\] \[prompts, traj"):
        WeightedSum({"mine": always(value)})(make_batch([0, 1]), draw(shared, [[0, 1, 2]] * 2))
    with pytest.raises(ValueError, match=rf"Reward mine returned {what} for a tensor \[2, 6\] \[prompts, items\]"):
        WeightedSum({"mine": Scored(value)}, catalog=shared).catalog(make_batch([0, 1]))


def test_a_reward_that_fails_is_named_with_what_it_was_given(shared, make_batch, draw):
    def mine(batch, trajectories):
        raise KeyError("era")

    batch, drawn = make_batch([0, 1], user=["u3", "u7"]), draw(shared, [[0, 1], [0, 2]])
    message = (
        r"Reward mine failed for users \['u3', 'u7'\], items \['i0', 'i1', 'i0'\] and others: KeyError\('era'\)\. Corr"
    )
    with pytest.raises(RuntimeError, match=message) as caught:
        WeightedSum({"mine": mine}, catalog=shared)(batch, drawn)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(RuntimeError, match=r"items \[0, 1, 0\] and others"):
        WeightedSum({"mine": mine})(batch, drawn)


def test_log_reward_lifts_to_the_floor_and_divides_by_the_temperature():
    reward = torch.tensor([0.0, 0.05, 0.1, 1.0, math.e**3], dtype=torch.float64)
    expected = torch.tensor([-2, -2, -2, 0, 6 / math.log(10)], dtype=torch.float64) * math.log(10)
    torch.testing.assert_close(log_reward(reward, floor=0.1, temperature=0.5), expected)
    torch.testing.assert_close(log_reward(reward, 0.1, 2.0), expected / 4)
