"""The losses of SASRec: over the catalog, or over sampled items where the catalog is large.

Each is made of the training part once, and is then called for a batch with the states at P positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from catalog.errors import InputError
from interactions import Splits, training_counts, training_matrix
from recommenders.memory import memory_left

if TYPE_CHECKING:
    from recommenders.sasrec import Network, SASRecSettings

SOFTMAX_BYTES = 14
"""Peak memory of a step with loss=softmax for each position and item."""


@dataclass(frozen=True)
class Positions:
    """Where a batch is asked for the next item. mask: `[B, N]`, which places these are, P of them.

    states: `[P, dimensions]`; target: `[P]`, the items that follow; users: B rows of the training matrix.
    """

    states: Tensor
    target: Tensor
    mask: Tensor
    users: Sequence[int]


class Loss(Protocol):
    """A mean over the positions."""

    def __call__(self, network: "Network", at: Positions) -> Tensor: ...


def make_loss(splits: Splits, items: int, settings: "SASRecSettings", positions: float, device: torch.device) -> Loss:
    """The loss that the settings name.

    positions: how many a batch has on average. Raises InputError where it cannot be drawn from these data, or does not
    fit into the memory of the device.
    """
    if settings.loss == "bce":
        taken = training_matrix(splits, items)  # [users, items]
        if taken.getnnz(1).max() == items:
            raise InputError(
                "loss=bce draws an item that a user never took, and one user took all.", remedy="Use loss=softmax."
            )
        return BCE(taken)
    if settings.loss == "sampled_softmax":
        return SampledSoftmax(mixed(torch.from_numpy(training_counts(splits, items))), settings.negatives)
    if settings.loss == "gbce":
        return GBCE(settings.negatives, settings.calibration)
    needed = SOFTMAX_BYTES * positions * items
    if needed > (left := memory_left(device)):
        raise InputError(
            f"loss=softmax: the scores of all {items:,} items at the {positions:,.0f} positions of a batch need about "
            f"{needed / 2**30:,.0f} GiB, and {left / 2**30:,.0f} GiB are left.",
            remedy="Set loss: sampled_softmax or gbce, or a smaller batch_size.",
            field="loss",
            value=settings.loss,
        )
    return softmax


def softmax(network: "Network", at: Positions) -> Tensor:
    """Cross-entropy over the catalog."""
    return F.cross_entropy(network.logits(at.states), at.target)


@dataclass(frozen=True)
class BCE:
    """As SASRec was published: against one item for each position that its user never took.

    taken: `[users, items]`, what each took in training.
    """

    taken: csr_matrix

    def __call__(self, network: "Network", at: Positions) -> Tensor:
        negative = unseen(self.taken[list(at.users)], at.mask.shape[1]).to(at.target.device)[at.mask]  # [P]
        taken, other = _logits(network, at.states, at.target), _logits(network, at.states, negative)
        return F.softplus(-taken).mean() + F.softplus(other).mean()


@dataclass(frozen=True)
class SampledSoftmax:
    """Cross-entropy whose sum over the other items is estimated from n items of the distribution q (logQ correction).

    -log( e^s_t / (e^s_t + 1/n sum_j [j is not t] e^s_j / q_j) ),  t the target, j the drawn items, s the logits

    The sum is that of the full softmax on average. One draw serves all positions of a batch. The target itself is not
    corrected, since it is not drawn: arXiv 2507.09331. q: `[items]`, see `mixed`.
    """

    q: Tensor
    n: int

    def __call__(self, network: "Network", at: Positions) -> Tensor:
        drawn = torch.multinomial(self.q, self.n, replacement=True)  # [n]
        correction = (self.n * self.q[drawn]).log().to(at.states.device)
        drawn = drawn.to(at.target.device)
        others = at.states @ network.embed(drawn).T - correction  # [P, n]
        others = others.masked_fill(drawn == at.target.unsqueeze(1), -torch.inf)
        target = _logits(network, at.states, at.target).unsqueeze(1)  # [P, 1]
        return (torch.cat([target, others], 1).logsumexp(1) - target.squeeze(1)).mean()


@dataclass(frozen=True)
class GBCE:
    """Generalized BCE against n items drawn uniformly: gSASRec, arXiv 2308.07192, equations 10 and 13.

    -1 / (n + 1) (beta log sigmoid(s_t) + sum over drawn j of log(1 - sigmoid(s_j)))
    beta = a (calibration (1 - 1/a) + 1/a),  a = n / (items - 1), at most 1

    calibration: 1 gives the probabilities of the full softmax, 0 those of BCE with n negatives. One draw serves all
    positions of a batch; the target is no negative.
    """

    n: int
    calibration: float

    def __call__(self, network: "Network", at: Positions) -> Tensor:
        items = network.padding
        share = min(1.0, self.n / (items - 1))
        beta = share * (self.calibration * (1 - 1 / share) + 1 / share)
        drawn = torch.randint(items, (self.n,)).to(at.target.device)  # [n]
        others = at.states @ network.embed(drawn).T  # [P, n]
        wrong = F.softplus(others).masked_fill(drawn == at.target.unsqueeze(1), 0.0).sum(1)
        right = beta * F.softplus(-_logits(network, at.states, at.target))
        return ((right + wrong) / (self.n + 1)).mean()


def mixed(counts: Tensor) -> Tensor:
    """Half of the draws by how often an item was taken, half of them uniform: mixed negative sampling (Yang et al.,
    WWW 2020). `[items]` -> probabilities `[items]` float32, none of them 0."""
    return (counts / counts.sum() / 2 + 0.5 / len(counts)).float()


def unseen(taken: csr_matrix, count: int) -> Tensor:
    """`count` items for each row of `taken [B, items]` that it does not hold, uniformly: `[B, count]`."""
    rows, items = taken.shape
    row, item = taken.nonzero()
    seen, start = torch.from_numpy(row.astype(np.int64) * items + item), torch.arange(rows).unsqueeze(1) * items
    drawn = torch.randint(items, (rows, count))
    while (again := torch.isin(start + drawn, seen)).any():  # rare: a user took few of the items
        drawn = torch.where(again, torch.randint(items, (rows, count)), drawn)
    return drawn


def _logits(network: "Network", states: Tensor, items: Any) -> Tensor:
    """Inner product of each state with its own item: `[P, dimensions]`, `[P]` -> `[P]`."""
    return (states * network.embed(items)).sum(-1)
