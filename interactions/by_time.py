"""Split at two points in time, the same for all users: nobody's future is in anybody's training."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from catalog.errors import InputError
from interactions.held_out import HeldOut
from interactions.log import in_order
from interactions.split import Splits, log_items, prompt_rows, sequence_rows, windows

QUANTILES = ("0.8", "0.9")
Unit = Literal["s", "ms", "us", "ns"]
UNITS: tuple[tuple[float, Unit | None], ...] = ((1e8, None), (1e11, "s"), (1e14, "ms"), (1e17, "us"), (np.inf, "ns"))
"""The unit of times since 1970 by the size of the newest: each holds below its bound. Below the first they are no
dates, but for instance places in a list; every later bound is the year 5138 of its unit and 1973 of the next one."""


def by_time(
    log: pd.DataFrame, item_ids: Sequence[str], max_history: int, at: Sequence[str | float] = QUANTILES
) -> Splits:
    """Split `log` (of `read_log`) at two times; `item_ids` are the ids of the catalog, `max_history` items a prompt.

    Training is the events before the first time, in windows as `leave_one_out` has them. A validation row's target is
    its user's first event in [first, second), a test row's the first one at or after the second. The history is ALL
    that the user did before the target, which for a test row may lie in the validation window. Users without an event
    before the target have no row; `held_out.without_history` counts them.

    at: two quantiles of the events' times, each between 0 and 1; or two times, as the log's numbers or as ISO 8601
        dates in UTC. At a quantile q the time of the event is taken that floor(q * events) others precede, so that
        events at one time stay together.

    Raises InputError for times that leave training, validation or test empty, and as `leave_one_out` does.
    """
    log = in_order(log)
    items = log_items(log, item_ids)  # [events]
    times: np.ndarray = log["timestamp"].to_numpy()
    first, second = cut_offs(times, at)
    users, _ = pd.factorize(log["user"])
    starts = np.flatnonzero(np.diff(users, prepend=-1))  # [users], positions in the log
    middle, late = (starts + np.bincount(users[times < time], minlength=len(starts)) for time in (first, second))
    train = windows(starts, middle - starts, max_history)
    held_out, without = {}, {}
    for name, begin, end in (("validation", middle, late), ("test", late, np.append(starts[1:], len(log)))):
        active = begin < end
        with_past = active & (begin > starts)
        held_out[name] = prompt_rows(log, items, starts[with_past], begin[with_past])
        without[name] = int((active & ~with_past).sum())
    trained = middle > starts
    for name, count in (("training", len(train[0])), *((name, len(rows)) for name, rows in held_out.items())):
        if not count:
            raise InputError(
                f"split_at={list(map(str, at))} leaves no {name} row: no user with an earlier event has one there.",
                remedy="Move the two times, or keep more of the log.",
                field="split_at",
                value=list(at),
            )
    since, until = (time_text(time, times.max()) for time in (first, second))
    record = HeldOut(
        kind="time",
        training=f"events before {since}",
        validation=f"each user's first event from {since} to before {until}",
        test=f"each user's first event from {until} on",
        without_history=without,
    )
    sequences = sequence_rows(log, items, starts[trained], middle[trained])
    return Splits(prompt_rows(log, items, *train), **held_out, sequences=sequences, held_out=record)


def cut_offs(times: np.ndarray, at: Sequence[str | float]) -> tuple[int | float, int | float]:
    """The two times, in the numbers of `times` [events]. Raises InputError where they are not two in order."""
    if len(at) != 2:
        raise _refused(at, f"these are {len(at)} times, and a split has two.")
    numbers = [_number(text) for text in map(str, at)]
    if all(number is not None and 0 < number < 1 for number in numbers):
        ordered = np.sort(times)
        first, second = (ordered[int(number * len(ordered))].item() for number in numbers if number is not None)
    else:
        first, second = (
            _from_date(text, times.max(), at) if number is None else number
            for text, number in zip(map(str, at), numbers, strict=True)
        )
    if not first < second:
        raise _refused(at, f"the second time, {second}, must come after the first, {first}.")
    return first, second


def time_text(time: int | float, newest: int | float) -> str:
    """A time as a date in UTC, or as its number where the log's times are no dates."""
    if (unit := _unit(newest)) is None:
        return f"time {time}"
    date = pd.Timestamp(time, unit=unit)
    return str(date.date()) if date == date.normalize() else f"{date.isoformat(' ')} UTC"


def _unit(newest: int | float) -> Unit | None:
    return next(unit for bound, unit in UNITS if abs(newest) < bound)


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _from_date(text: str, newest: int | float, at: Sequence[str | float]) -> int:
    unit = _unit(newest)
    date = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    if date is pd.NaT:
        raise _refused(at, f"{text!r} is neither a number nor a date.")
    if unit is None:
        raise _refused(at, f"{text!r} is a date, and the log's times are none: the newest is {newest}.")
    try:
        return int(pd.DatetimeIndex([date]).as_unit(unit).asi8[0])
    except pd.errors.OutOfBoundsDatetime as error:
        raise _refused(at, f"{text!r} is outside the dates that the log's unit, {unit}, can hold.") from error


def _refused(at: Sequence[str | float], problem: str) -> InputError:
    return InputError(
        f"split_at={list(map(str, at))}: {problem}",
        remedy="Give two quantiles between 0 and 1, or two times of the log, as its numbers or as dates.",
        field="split_at",
        value=list(at),
    )
