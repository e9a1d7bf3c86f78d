"""What is rounding and what is another model, with the rounding that a simulation of bfloat16 and TF32 found.

12 layers, autocast against an engine in bfloat16: means of 0.02, 0.04 and 0.06, largest differences of up to 0.30, for
largest logits of about 3, 7 and 14.
"""

import pytest
import torch

from policy import Agreement

LEVELS, CHILDREN = 4, 30
SCALES = {1.0: 0.02, 2.5: 0.04, 5.0: 0.06}
"""Standard deviation of the logits -> the mean difference that rounding to bfloat16 leaves."""


def steps(scale, seed, forced=0):
    """log-probabilities [4 prompts, 2 paths, L, children] of a policy, and a path drawn from it [4, 2, L]."""
    generator = torch.Generator().manual_seed(seed)
    every = (scale * torch.randn(4, 1, LEVELS, CHILDREN, generator=generator)).expand(4, 2, -1, -1).log_softmax(-1)
    drawn = every.reshape(-1, CHILDREN).exp().multinomial(1, generator=generator).view(4, 2, LEVELS)
    if forced:  # the last codes of an item follow from the others
        every = every.clone()
        every[:, :, -forced:] = 0.0
    return every, drawn


def read(every, drawn):
    return every.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)


def rounded(log_pf, mean, seed):
    """With noise of that mean size on every step that has a choice."""
    noise = torch.randn(log_pf.shape, generator=torch.Generator().manual_seed(seed)) * mean / 0.798
    return log_pf + noise * (log_pf != 0)


@pytest.mark.parametrize("forced", [0, 2])
@pytest.mark.parametrize("scale", SCALES)
def test_the_rounding_of_bfloat16_is_no_other_model(scale, forced):
    largest = 0.0
    for seed in range(200):
        log_pf = read(*steps(scale, seed, forced))
        agreement = Agreement.of(rounded(log_pf, SCALES[scale], seed), log_pf)
        assert not agreement.problem(exact=False), agreement
        largest = max(largest, agreement.largest)
        assert agreement.problem(exact=True) == f"by up to {agreement.largest:.2g}, not 0.001"
    assert scale < 5 or largest > 0.2  # what the largest difference alone would have taken for another model


@pytest.mark.parametrize("forced", [0, 2])
@pytest.mark.parametrize("scale", [0.5, *SCALES])
def test_other_weights_are_another_model(scale, forced):
    for seed in range(200):
        every, drawn = steps(scale, seed, forced)
        other, _ = steps(scale, seed + 1000, forced)  # of another model, for paths of this one
        shifted = every.roll(1, -1)  # of this one, with another vocabulary
        for wrong in (other, shifted):
            assert Agreement.of(read(every, drawn), read(wrong, drawn)).problem(exact=False)


def test_a_policy_that_knows_nothing_yet_agrees_whatever_its_paths_correlate_by():
    log_pf = torch.full((4, 2, LEVELS), -3.4) + 0.01 * torch.randn(4, 2, LEVELS)
    agreement = Agreement.of(log_pf, torch.full((4, 2, LEVELS), -3.4))
    assert agreement.correlation == 1.0 and not agreement.problem(exact=False)


def test_paths_in_another_order_are_told_by_their_correlation():
    """A mean that is small since few steps differ: the paths of two prompts change places."""
    reference = torch.zeros(8, 1, 40).sub(0.05)
    reference[:4, :, 0] = torch.tensor([-0.5, -1.0, -1.5, -2.0]).unsqueeze(1)
    agreement = Agreement.of(reference.flip(0), reference)
    assert agreement.mean < 0.1 and "correlate by" in agreement.problem(exact=False)


@pytest.mark.parametrize("spoilt", [torch.nan, -torch.inf])
def test_what_is_no_number_is_no_rounding(spoilt):
    log_pf = torch.full((2, 2, 3), -1.0)
    wrong = log_pf.clone()
    wrong[0, 0, 0] = spoilt
    for exact in (True, False):
        assert Agreement.of(wrong, log_pf).problem(exact)
    assert Agreement.of(torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)) == Agreement(0.0, 0.0, 1.0)
