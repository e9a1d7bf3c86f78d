"""Objectives by hand, and each reduced to its neighbour."""

from dataclasses import replace

import pytest
import torch

from catalog import PADDING, SOURCES
from trainer.objectives import OBJECTIVES, FlowInputs, sft, tb, vargrad

TARGET, RANDOM = SOURCES.index("target"), SOURCES.index("random")


def make_inputs(batch: int, count: int, levels: int) -> FlowInputs:
    generator = torch.Generator().manual_seed(0)
    return FlowInputs(
        log_pf=-torch.rand(batch, count, levels, generator=generator, dtype=torch.float64) * 3,
        log_reward=torch.randn(batch, count, generator=generator, dtype=torch.float64),
        source=torch.full((batch, count), RANDOM),
        log_flow=torch.randn(batch, 1, 1, generator=generator, dtype=torch.float64).expand(batch, count, levels + 1),
    )


def test_sft_by_hand():
    log_pf = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0], [-9.0, -9.0]], [[-0.5, -0.5], [-1.0, -1.0], [-9.0, -9.0]]])
    source = torch.tensor([[TARGET, TARGET, PADDING], [RANDOM, TARGET, PADDING]])
    output = sft(FlowInputs(log_pf, torch.zeros(2, 3), source))
    assert output.loss.tolist() == [5.0, 2.0]  # (3 + 7) / 2, 2 / 1
    assert output.weight.tolist() == [2.0, 1.0]
    assert output.metrics["sft/loss"].item() == 4.0  # 12 nats over 3 targets


def test_trajectory_balance_by_hand():
    inputs = FlowInputs(
        log_pf=torch.tensor([[[-1.0, -1.0], [-2.0, -1.0]]]),
        log_reward=torch.tensor([[0.5, -1.0]]),
        source=torch.zeros(1, 2, dtype=torch.long),
        log_flow=torch.full((1, 2, 3), 2.0),
    )
    output = tb(inputs)  # residuals 2 - 2 - 0.5 and 2 - 3 + 1
    assert output.loss.item() == pytest.approx((0.25 + 0.0) / 2)
    assert output.metrics["flow/residual_rms"].item() == pytest.approx(0.125**0.5)


def test_vargrad_by_hand():
    inputs = replace(
        make_inputs(1, 2, 1), log_pf=torch.tensor([[[-1.0], [-3.0]]]), log_reward=torch.tensor([[0.0, -1.0]])
    )
    output = vargrad(inputs)  # gaps -1 and -2, so log Z = 1.5 and residuals 0.5 and -0.5
    assert output.loss.item() == pytest.approx(0.25)
    assert output.metrics["flow/log_z"].item() == pytest.approx(1.5)


@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 4, 3), (2, 16, 5)])
def test_vargrad_is_trajectory_balance_at_the_optimal_log_z(shape):
    inputs = make_inputs(*shape)
    log_z = (inputs.log_reward - inputs.log_pf.sum(-1)).mean(-1)  # [B]
    optimal = replace(inputs, log_flow=log_z[:, None, None].expand_as(inputs.log_flow))
    torch.testing.assert_close(vargrad(inputs).loss, tb(optimal).loss)
    for change in (-0.1, 0.1):  # and that log Z is a minimum
        assert (tb(replace(optimal, log_flow=optimal.log_flow + change)).loss > vargrad(inputs).loss).all()


@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 4, 3)])
def test_the_gradient_of_vargrad_is_that_of_the_variance(shape):
    inputs = make_inputs(*shape)
    gradients = []
    for loss in (lambda i: vargrad(i).loss, lambda i: (i.log_pf.sum(-1) - i.log_reward).var(-1, correction=0)):
        log_pf = inputs.log_pf.clone().requires_grad_()
        loss(replace(inputs, log_pf=log_pf)).sum().backward()
        gradients.append(log_pf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_flow_objectives_vanish_exactly_where_the_policy_matches_the_reward(name):
    reward = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64)
    matched = FlowInputs(
        log_pf=(reward / reward.sum()).log().unsqueeze(-1),
        log_reward=reward.log(),
        source=torch.full((1, 3), RANDOM),
        log_flow=reward.sum().log().expand(1, 3, 2),
    )
    assert OBJECTIVES[name].loss(matched).loss.item() == pytest.approx(0, abs=1e-24)
    moved = replace(matched, log_pf=matched.log_pf + torch.tensor([[[0.1], [0.0], [-0.1]]]))
    assert OBJECTIVES[name].loss(moved).loss.item() > 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_constant_shift_of_log_reward_is_taken_up_by_log_z(name):
    inputs = make_inputs(2, 4, 3)
    shifted = replace(inputs, log_reward=inputs.log_reward + 7, log_flow=inputs.log_flow + 7)
    torch.testing.assert_close(OBJECTIVES[name].loss(inputs).loss, OBJECTIVES[name].loss(shifted).loss)


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match=r"log_reward has shape \(2, 3\)"):
        FlowInputs(torch.zeros(2, 4, 3), torch.zeros(2, 3), torch.zeros(2, 4))


def test_what_an_objective_cannot_do_without_is_named():
    inputs = make_inputs(2, 1, 3)
    with pytest.raises(ValueError, match="log_flow"):
        tb(replace(inputs, log_flow=None))
    with pytest.raises(ValueError, match="at least 2"):
        vargrad(inputs)
