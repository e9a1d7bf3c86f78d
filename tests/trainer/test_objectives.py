"""Objectives by hand, and each reduced to its neighbor."""

from dataclasses import fields, replace
from inspect import signature

import pytest
import torch
from torch import Tensor

from catalog import PADDING, SOURCES, exact_log_flow
from trainer import GFlowNetConfig
from trainer.objectives import OBJECTIVES, FlowInputs, db, flow_kl, sft, subtb, tb, vargrad

TARGET, RANDOM = SOURCES.index("target"), SOURCES.index("random")
TENSORS = ("log_pf", "log_reward", "source", "log_flow", "child_log_pf", "child_log_flow")


def make_inputs(batch: int, count: int, levels: int, children: int = 3) -> FlowInputs:
    """Random inputs whose parts agree: log P_F of a step is that of one of the node's children."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    child_log_pf = random(batch, count, levels, children).log_softmax(-1)
    return FlowInputs(
        log_pf=child_log_pf[..., 0],
        log_reward=random(batch, count),
        source=torch.full((batch, count), RANDOM),
        log_flow=torch.cat([random(batch, 1, 1).expand(-1, count, -1), random(batch, count, levels)], -1),
        child_log_pf=child_log_pf,
        child_log_flow=random(batch, count, levels, children),
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
    assert inputs.log_flow is not None
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


def test_detailed_balance_by_hand():
    inputs = FlowInputs(
        log_pf=torch.tensor([[[-1.0, -2.0]]]),
        log_reward=torch.tensor([[0.5]]),
        source=torch.zeros(1, 1, dtype=torch.long),
        log_flow=torch.tensor([[[3.0, 1.0, 99.0]]]),  # the last one gives way to the reward
    )
    output = db(inputs)  # residuals 3 - 1 - 1 and 1 - 2 - 0.5
    assert output.loss.item() == pytest.approx(1.0 + 2.25)
    assert output.metrics["flow/residual_rms"].item() == pytest.approx((3.25 / 2) ** 0.5)


def test_sub_trajectory_balance_by_hand():
    inputs = FlowInputs(
        log_pf=torch.tensor([[[-1.0, -2.0]]]),
        log_reward=torch.tensor([[0.5]]),
        source=torch.zeros(1, 1, dtype=torch.long),
        log_flow=torch.tensor([[[3.0, 1.0, 99.0]]]),
    )
    # steps 1 and -1.5, the whole path 3 - 3 - 0.5; weights 1/2, 1/2 and 1/4 over their sum
    assert subtb(inputs, lambda_=0.5).loss.item() == pytest.approx((0.5 * 3.25 + 0.25 * 0.25) / 1.25)


@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 4, 3), (2, 5, 4)])
def test_sub_trajectory_balance_is_detailed_balance_at_one_end_and_trajectory_balance_at_the_other(shape):
    inputs = make_inputs(*shape)
    torch.testing.assert_close(subtb(inputs, lambda_=1e-12).loss, db(inputs).loss / shape[-1])
    torch.testing.assert_close(subtb(inputs, lambda_=1e12).loss, tb(inputs).loss)


def test_a_single_step_makes_all_balances_the_same():
    inputs = make_inputs(3, 4, 1)
    for loss in (db(inputs).loss, subtb(inputs).loss):
        torch.testing.assert_close(loss, tb(inputs).loss)


def test_flow_kl_is_the_divergence_along_the_path():
    inputs = make_inputs(2, 3, 4)
    q, p = inputs.child_log_flow.softmax(-1), inputs.child_log_pf.exp()
    expected = (q * (q / p).log()).sum((-2, -1)).mean(-1)
    torch.testing.assert_close(flow_kl(inputs).loss, expected)
    padded = replace(  # a node with fewer children than another
        inputs,
        child_log_pf=torch.nn.functional.pad(inputs.child_log_pf, (0, 2), value=-torch.inf),
        child_log_flow=torch.nn.functional.pad(inputs.child_log_flow, (0, 2), value=-torch.inf),
    )
    torch.testing.assert_close(flow_kl(padded).loss, expected)


def test_flow_kl_over_paths_drawn_from_the_reward_is_the_divergence_over_items(catalog):
    trie, items = catalog.trie, torch.arange(48)
    log_flow = exact_log_flow(torch.randn(1, 48, dtype=torch.float64), trie)
    edge = torch.randn(trie.nodes, dtype=torch.float64)
    child = trie.children(torch.arange(trie.level_start[-2]))
    edge[child[child > 0]] = edge[child.clamp(min=0)].masked_fill(child < 0, -torch.inf).log_softmax(-1)[child > 0]
    path = trie.path(items)
    child = trie.children(path[:, :-1])
    inputs = FlowInputs(
        log_pf=edge[path[:, 1:]].unsqueeze(0),
        log_reward=log_flow[:, path[:, -1]],
        source=torch.full((1, 48), RANDOM),
        weight=(log_flow[:, path[:, -1]] - log_flow[:, :1]).exp(),  # R / Z: the mean over k is that over such draws
        child_log_pf=edge[child.clamp(min=0)].masked_fill(child < 0, -torch.inf).unsqueeze(0),
        child_log_flow=log_flow[0, child.clamp(min=0)].masked_fill(child < 0, -torch.inf).unsqueeze(0),
    )
    q, p = inputs.weight, inputs.log_pf.sum(-1)
    torch.testing.assert_close(flow_kl(inputs).loss, (q * (q.log() - p)).sum(-1))


def matched(levels: int) -> FlowInputs:
    """Every item of a full tree with 3 children a node, at balance: R = Z P_F, and the flows are the exact ones."""
    inputs = make_inputs(1, 1, 1)
    codes = torch.cartesian_prod(*[torch.arange(3)] * levels).view(-1, levels)  # [K, L]
    tables = [torch.randn(3**level, 3, dtype=torch.float64).log_softmax(-1) for level in range(levels)]
    place = [(codes[:, :level] * 3 ** torch.arange(level - 1, -1, -1)).sum(-1) for level in range(levels)]
    child_log_pf = torch.stack([tables[level][place[level]] for level in range(levels)], 1)  # [K, L, 3]
    log_pf = child_log_pf.gather(-1, codes.unsqueeze(-1)).squeeze(-1)
    log_flow = 1.7 + torch.nn.functional.pad(log_pf.cumsum(-1), (1, 0))
    return replace(
        inputs,
        log_pf=log_pf.unsqueeze(0),
        log_reward=log_flow[None, :, -1],
        source=torch.full((1, len(codes)), RANDOM),
        log_flow=log_flow.unsqueeze(0),
        child_log_pf=child_log_pf.unsqueeze(0),
        child_log_flow=(log_flow[:, :-1, None] + child_log_pf).unsqueeze(0),
    )


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_flow_objectives_vanish_exactly_where_the_policy_matches_the_reward(name, levels):
    balanced = matched(levels)
    assert OBJECTIVES[name].loss(balanced).loss.item() == pytest.approx(0, abs=1e-12)
    tilted = (balanced.child_log_pf + torch.tensor([0.1, 0.0, -0.1])).log_softmax(-1)  # the policy alone moves
    shift = (tilted - balanced.child_log_pf).gather(-1, torch.zeros_like(balanced.log_pf, dtype=torch.long)[..., None])
    moved = replace(balanced, log_pf=balanced.log_pf + shift[..., 0], child_log_pf=tilted)
    moved = replace(moved, log_pf=moved.log_pf + torch.linspace(-0.1, 0.1, moved.log_pf.shape[1])[None, :, None])
    assert OBJECTIVES[name].loss(moved).loss.item() > 1e-4


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_constant_factor_of_the_reward_is_taken_up_by_the_flows(name):
    inputs = make_inputs(2, 4, 3)
    shifted = replace(
        inputs,
        log_reward=inputs.log_reward + 7,
        log_flow=inputs.log_flow + 7,
        child_log_flow=inputs.child_log_flow + 7,
    )
    torch.testing.assert_close(OBJECTIVES[name].loss(inputs).loss, OBJECTIVES[name].loss(shifted).loss)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_finite_differences(name):
    inputs = make_inputs(2, 3, 2)

    def loss(log_pf: Tensor, log_flow: Tensor, child_log_pf: Tensor) -> Tensor:
        return OBJECTIVES[name].loss(replace(inputs, log_pf=log_pf, log_flow=log_flow, child_log_pf=child_log_pf)).loss

    arguments = [value.clone().requires_grad_() for value in (inputs.log_pf, inputs.log_flow, inputs.child_log_pf)]
    assert torch.autograd.gradcheck(loss, arguments)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_neither_empty_slots_nor_the_order_of_trajectories_change_a_loss(name):
    inputs = make_inputs(3, 5, 3)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(4))
    shuffled = replace(inputs, **{f: getattr(inputs, f)[:, order] for f in TENSORS})
    torch.testing.assert_close(OBJECTIVES[name].loss(inputs).loss, OBJECTIVES[name].loss(shuffled).loss)

    nonsense = {f: torch.cat([getattr(inputs, f), torch.full_like(getattr(inputs, f)[:, :2], 9)], 1) for f in TENSORS}
    nonsense["source"][:, 5:] = PADDING
    nonsense["log_reward"][:, 5] = torch.nan
    torch.testing.assert_close(
        OBJECTIVES[name].loss(replace(inputs, **nonsense)).loss, OBJECTIVES[name].loss(inputs).loss
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_weight_counts_a_trajectory_as_often(name):
    inputs = make_inputs(2, 3, 2)
    weighted = replace(inputs, weight=torch.tensor([[1.0, 2.0, 0.0]] * 2, dtype=torch.float64))
    repeated = replace(inputs, **{f: getattr(inputs, f)[:, [0, 1, 1]] for f in TENSORS})
    torch.testing.assert_close(OBJECTIVES[name].loss(weighted).loss, OBJECTIVES[name].loss(repeated).loss)


@pytest.mark.parametrize("loss", [tb, vargrad, db, subtb])
def test_a_clipped_residual_gives_a_clipped_gradient_and_a_wide_clip_none(loss):
    inputs = make_inputs(2, 4, 3)
    torch.testing.assert_close(loss(inputs, clip=1e6).loss, loss(inputs).loss)
    assert (loss(inputs, clip=0.1).loss < loss(inputs).loss).all()
    far = replace(inputs, log_reward=inputs.log_reward + torch.tensor([0.0, 100.0, 0.0, 0.0]))
    log_pf = far.log_pf.clone().requires_grad_()
    loss(replace(far, log_pf=log_pf), clip=0.5).loss.sum().backward()
    assert log_pf.grad.abs().max() <= 2 * 0.5 * 3  # each of at most 3 residuals on a step pulls with at most 2 * clip


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match=r"log_reward has shape \(2, 3\)"):
        FlowInputs(torch.zeros(2, 4, 3), torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"child_log_pf has shape \(2, 4, 2, 5\)"):
        FlowInputs(torch.zeros(2, 4, 3), torch.zeros(2, 4), torch.zeros(2, 4), child_log_pf=torch.zeros(2, 4, 2, 5))


def test_what_an_objective_cannot_do_without_is_named():
    inputs = replace(make_inputs(2, 1, 3), log_flow=None, child_log_flow=None)
    for loss in (tb, db, subtb):
        with pytest.raises(ValueError, match="log_flow"):
            loss(inputs)
    with pytest.raises(ValueError, match="child_log_flow"):
        flow_kl(inputs)
    with pytest.raises(ValueError, match="at least 2"):
        vargrad(inputs)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_keyword_of_an_objective_is_a_setting(name):
    objective = OBJECTIVES[name]
    keywords = [p.name for p in signature(objective.loss).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert set(objective.options) == set(keywords)
    assert set(objective.options.values()) <= {field.name for field in fields(GFlowNetConfig)}
