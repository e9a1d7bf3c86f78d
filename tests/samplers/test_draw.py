import pytest
import torch

from samplers.base import draw, generator


@pytest.mark.parametrize("count", [1, 4])
def test_with_enough_weights_a_draw_is_torch_multinomials(count):
    weight = torch.rand(50, 9, generator=torch.Generator().manual_seed(0))
    items = torch.arange(100, 109).expand(50, -1)
    expected = torch.multinomial(weight, count, generator=generator(5, weight.device))
    assert torch.equal(draw(items, weight, count, seed=5), 100 + expected)


@pytest.mark.parametrize("count", [2, 5])
def test_a_row_with_too_few_weights_ends_with_minus_one(count):
    weight = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    drawn = draw(torch.tensor([[7, 8, 9]] * 3), weight, count, seed=0)
    assert drawn.shape == (3, count) and drawn[0, 0] == 8
    assert (drawn >= 0).sum(1).tolist() == [1, 0, min(count, 3)] and (drawn[:2, 1:] == -1).all()


def test_no_candidates_at_all_give_no_items():
    assert draw(torch.empty(2, 0, dtype=torch.long), torch.empty(2, 0), 3, seed=0).tolist() == [[-1] * 3] * 2
