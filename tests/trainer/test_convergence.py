"""Every flow objective reaches R / Z on a whole random catalog, from trajectories of others and from its own."""

import pytest

from benchmarks.convergence import MATCHED, train
from trainer.objectives import OBJECTIVES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("drawn", ["random", "policy"])
@pytest.mark.parametrize("policy", MATCHED)
def test_a_flow_objective_comes_to_sample_in_proportion_to_the_reward(policy, drawn, objective):
    curve = train(policy, objective, drawn)
    assert curve[0][1] > 10 * MATCHED[policy]  # it has something to learn
    assert curve[-1][1] <= MATCHED[policy]


@pytest.mark.parametrize(("method", "drawn"), [("sft", "random"), ("grpo", "policy")])
@pytest.mark.parametrize("policy", MATCHED)
def test_what_imitates_or_maximizes_does_not(policy, method, drawn):
    assert train(policy, method, drawn)[-1][1] > 0.5
