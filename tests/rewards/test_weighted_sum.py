import math

import pytest
import torch

from rewards import WeightedSum, build_rewards, log_reward


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
    torch.testing.assert_close(
        build_rewards({"hit": 1.0, "similarity": 0.3}, shared)(*given), torch.tensor([[1.3, 0.2]])
    )


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (["one"], {"won": 1.0}, r"Weights are given for \['won'\], but the rewards are \['one'\]"),
        (["one"], {"one": -1.0}, "weight of reward one is -1.0"),
        (["one"], {"one": math.nan}, "weight of reward one is nan"),
        (["one"], {"one": math.inf}, "weight of reward one is inf"),
        ([], {}, "No reward is given"),
    ],
)
def test_weights_that_make_no_sum_are_refused(names, weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedSum({name: ONE for name in names}, weights)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5])
def test_a_value_that_is_no_reward_is_named_by_reward_trajectory_and_user(value, shared, make_batch, draw):
    values = torch.tensor([[0.0, 1.0], [1.0, value]])
    reward, drawn = WeightedSum({"one": always(torch.ones(2, 2)), "mine": always(values)}), draw(shared, [[0, 1]] * 2)
    with pytest.raises(ValueError, match=rf"Reward mine is {value} for trajectory 1 of user 'u7'\. .*finite and >= 0"):
        reward(make_batch([0, 1], user=["u3", "u7"]), drawn)
    with pytest.raises(ValueError, match="trajectory 1 of user 1"):
        reward(make_batch([0, 1]), drawn)


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
def test_a_result_that_is_no_tensor_of_prompts_and_trajectories_is_refused(value, what, shared, make_batch, draw):
    with pytest.raises(ValueError, match=rf"Reward mine returned {what} for a tensor \[2, 3\] \[prompts, traj"):
        WeightedSum({"mine": always(value)})(make_batch([0, 1]), draw(shared, [[0, 1, 2]] * 2))


def test_log_reward_lifts_to_the_floor_and_divides_by_the_temperature():
    reward = torch.tensor([0.0, 0.05, 0.1, 1.0, math.e**3], dtype=torch.float64)
    expected = torch.tensor([-2, -2, -2, 0, 6 / math.log(10)], dtype=torch.float64) * math.log(10)
    torch.testing.assert_close(log_reward(reward, floor=0.1, temperature=0.5), expected)
    torch.testing.assert_close(log_reward(reward, 0.1, 2.0), expected / 4)
