"""What a comparison of methods consists of, before it is printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import NamedTuple

from evaluation.breakdown import Breakdown
from evaluation.significance import PairedTest

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""Method -> metric -> its value for each seed; a method may lack metrics."""

Sections = Mapping[str, Sequence[str]]
"""Heading -> methods that stand below it at the end of a table, apart from the others."""

Records = Sequence[Mapping[str, float]]
Calibration = Mapping[str, Mapping[str, Sequence[float]]]


class Shown(NamedTuple):
    """A recommended item."""

    title: str
    hit: bool


@dataclass(frozen=True)
class Example:
    """One user: titles of the newest items of the history, oldest first, of the held-out item, and what is shown."""

    history: Sequence[str]
    target: str
    lists: Mapping[str, Sequence[Shown]]  # method -> best first, as many of each


@dataclass(frozen=True)
class Comparison:
    """Methods side by side, and all that a page says of them. Names of metrics are those that `metric_help` knows."""

    title: str
    values: Values
    notes: Sequence[str] = ()
    """What a reader must know to judge the numbers: data, what a hit means, beam width, seeds, masking."""
    sections: Sections = field(default_factory=dict)
    curves: Mapping[str, Sequence[Records]] = field(default_factory=dict)
    """Method -> for each seed the records that `transformers.Trainer` logs, each with its `step`."""
    calibration: Calibration = field(default_factory=dict)
    """Method -> `log_reward`, which is log (R / Z), and `log_prob`, log P_F(item); `[points]`, in nats."""
    baseline: str | None = None
    tests: Mapping[str, Mapping[str, PairedTest]] = field(default_factory=dict)
    """Metric -> method -> its test against the baseline."""
    breakdowns: Mapping[str, Breakdown] = field(default_factory=dict)
    """What tells users apart, such as "Length of the history" -> means of some metrics for groups of users."""
    examples: Sequence[Example] = ()


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation over seeds; None for the latter where there is one seed."""
    return mean(values), stdev(values) if len(values) > 1 else None
