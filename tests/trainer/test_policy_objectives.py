"""GRPO's advantages, its clips and KL, and preferences without a negative, worked out by hand."""

import pytest
import torch

from catalog import PADDING, SOURCES
from trainer.objectives import FlowInputs, dpo, grpo, sdpo
from trainer.objectives.grpo import advantages

TARGET, RANDOM = SOURCES.index("target"), SOURCES.index("random")


def inputs(log_pf, reward, **fields):
    """One prompt, trajectories of one code."""
    log_pf = torch.tensor(log_pf, dtype=torch.float64).reshape(1, -1, 1).requires_grad_()
    given = {name: torch.tensor(v, dtype=torch.float64).reshape(log_pf.shape) for name, v in fields.items()}
    reward = torch.tensor([reward], dtype=torch.float64)
    source = torch.full((1, log_pf.shape[1]), RANDOM)
    return FlowInputs(log_pf, torch.zeros_like(reward), source, reward=reward, **given)


def test_advantages_leave_empty_slots_out():
    reward = torch.tensor([[1.0, 3.0, 99.0], [2.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    scaled, spread = advantages(reward, mask, "group")
    root = 2**0.5
    torch.testing.assert_close(spread, torch.tensor([root, 0.0]))
    torch.testing.assert_close(
        scaled, torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) / torch.tensor([[root + 1e-4], [1e-4]])
    )
    torch.testing.assert_close(advantages(reward, mask, "none")[0], torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_what_nobody_drew_earlier_has_ratio_one():
    found = inputs([-1.0, -2.0], [0.0, 4.0], log_pf_behavior=[float("nan"), -2.0 - torch.log(torch.tensor(1.1)).item()])
    out = grpo(found, scale_rewards="none")
    # A = (-2, 2); ratios 1 and 1.1
    assert out.loss.item() == pytest.approx((2 * 1 - 2 * 1.1) / 2)
    (gradient,) = torch.autograd.grad(out.loss.sum(), found.log_pf)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1.0, -1.1], dtype=torch.float64))


def test_the_clip_stops_the_gradient_and_counts():
    # both twice as likely as when drawn: the better one is clipped, the worse one is not
    found = inputs([-1.0, -1.0], [4.0, 0.0], log_pf_behavior=[-1.0 - 0.6931471805599453] * 2)
    out = grpo(found, scale_rewards="none", epsilon=0.2, epsilon_high=0.3)
    assert out.loss.item() == pytest.approx((-2 * 1.3 + 2 * 2) / 2)
    (gradient,) = torch.autograd.grad(out.loss.sum(), found.log_pf)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert out.metrics["clip_ratio/region_mean"].item() == 0.5


def test_the_early_clip_bounds_the_ratio_of_what_is_worse():
    # ECPO: pi_old' = max(pi_old, sg(pi) / (1 + epsilon + delta)) where A < 0, so a ratio of 2 becomes 1.2 + 0.1
    found = inputs([-1.0, -1.0], [4.0, 0.0], log_pf_behavior=[-1.0, -1.0 - 0.6931471805599453])
    out = grpo(found, scale_rewards="none", early_clip=0.1)
    assert out.loss.item() == pytest.approx((-2 * 1 + 2 * 1.3) / 2)
    (gradient,) = torch.autograd.grad(out.loss.sum(), found.log_pf)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-1.0, 1.3], dtype=torch.float64))


@pytest.mark.parametrize("corrected", [True, False])
def test_the_divergence_from_the_reference(corrected):
    # rewards alike: nothing but the KL teaches. exp(d) - d - 1 for d = ref - log_pf = -0.5
    found = inputs([-1.0, -1.0], [1.0, 1.0], log_pf_reference=[-1.5, -1.5])
    out = grpo(found, beta=0.4, use_bias_correction_kl=corrected)
    divergence = torch.tensor(-0.5, dtype=torch.float64).exp() + 0.5 - 1
    assert out.metrics["kl"].item() == pytest.approx(divergence.item())
    (gradient,) = torch.autograd.grad(out.loss.sum(), found.log_pf)
    slope = 1 - torch.tensor(-0.5, dtype=torch.float64).exp()  # of the divergence itself
    each = 0.4 * (slope + divergence if corrected else slope) / 2
    torch.testing.assert_close(gradient.flatten(), each.repeat(2))


@pytest.mark.parametrize("objective", [dpo, sdpo])
@pytest.mark.parametrize("weight", [None, [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
def test_a_prompt_without_a_negative_counts_for_nothing(objective, weight):
    log_pf = torch.randn(2, 3, 2, requires_grad=True)
    found = FlowInputs(
        log_pf,
        torch.zeros(2, 3),
        torch.tensor([[TARGET, RANDOM, PADDING], [TARGET, RANDOM, RANDOM]]),
        weight=None if weight is None else torch.tensor(weight),
        hit=torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
        log_pf_reference=torch.zeros(2, 3, 2),
    )
    out = objective(found, beta=0.5)
    assert out.loss[0] == 0 and out.weight.tolist() == [0, 1] and out.loss[1] > 0
    (gradient,) = torch.autograd.grad(out.loss.sum(), log_pf)
    assert not gradient[0].any() and gradient[1].isfinite().all() and gradient[1].any()


@pytest.mark.parametrize("objective", [dpo, sdpo])
def test_a_negative_of_weight_zero_is_none(objective):
    log_pf = torch.randn(1, 3, 2)
    source, hit = torch.tensor([[TARGET, RANDOM, RANDOM]]), torch.tensor([[1.0, 0.0, 0.0]])
    reference = torch.randn(1, 3, 2)
    weighed = FlowInputs(
        log_pf, torch.zeros(1, 3), source, weight=torch.tensor([[1.0, 1.0, 0.0]]), hit=hit, log_pf_reference=reference
    )
    alone = FlowInputs(
        log_pf[:, :2], torch.zeros(1, 2), source[:, :2], hit=hit[:, :2], log_pf_reference=reference[:, :2]
    )
    torch.testing.assert_close(objective(weighed).loss, objective(alone).loss)
