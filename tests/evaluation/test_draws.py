"""What ten draws show, against draws that were made."""

import torch

from evaluation.draws import chance_to_show, draw_metrics


def test_the_chance_that_a_draw_shows_something():
    p = torch.tensor([0.0, 1e-9, 0.25, 1.0])
    torch.testing.assert_close(chance_to_show(p.log(), 2), torch.tensor([0.0, 2e-9, 0.4375, 1.0]), rtol=1e-6, atol=0)
    assert chance_to_show(torch.tensor(1e-7)) == 1  # rounding may put a probability above 1


def test_expectations_are_the_means_of_draws():
    p = torch.tensor([0.6, 0.3, 0.1, 0.0])
    found = draw_metrics(p.log()[1:2], p.log()[None])
    draws = torch.multinomial(p, 20_000 * 10, replacement=True).view(-1, 10)
    shown = torch.stack([(draws == code).any(1) for code in range(4)], 1).float()  # [draws, codes]
    assert abs(found["drawn_recall@10"].item() - shown[:, 1].mean().item()) < 0.01
    assert abs(found["drawn_first_codes@10"].item() - shown.sum(1).mean().item()) < 0.02
