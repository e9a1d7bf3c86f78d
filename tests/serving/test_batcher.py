"""What is drawn with what, in which order, and what a failure or a time-out leaves behind."""

import asyncio
import threading

import pytest

from catalog.errors import InputError, RunError
from serving.batcher import Batcher, Overloaded


class Draw:
    """Doubles numbers, and notes the batches; it waits at 0, and fails where a number is below 0."""

    def __init__(self):
        self.batches, self.go_on = [], threading.Event()

    def __call__(self, how, rows):
        self.batches.append((how, list(rows)))
        if 0 in rows:
            self.go_on.wait(10)
        if min(rows) < 0:
            raise InputError("Below 0.") if min(rows) == -1 else KeyError("of the engine")
        return [2 * row for row in rows]


def run(use, **settings):
    """`use(batcher, draw)` while the batcher runs; what it returns, and the batches."""
    draw = Draw()

    async def main():
        batcher = Batcher(draw, **({"max_batch": 4, "max_waiting": 100, "seconds": 5.0} | settings))
        running = asyncio.create_task(batcher.run())
        try:
            return await use(batcher, draw)
        finally:
            draw.go_on.set()
            running.cancel()

    return asyncio.run(main()), draw.batches


async def behind(batcher, draw, *asked):
    """The results, or errors, of requests (how, rows) that came while a first one was drawn."""
    first = asyncio.create_task(batcher.submit("first", [0]))
    while not draw.batches:
        await asyncio.sleep(0.001)
    waiting = [asyncio.create_task(batcher.submit(how, rows)) for how, rows in asked]
    await asyncio.sleep(0.01)
    draw.go_on.set()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


def test_what_is_asked_in_the_same_way_is_drawn_together_as_far_as_it_fits():
    asked = [("a", [1]), ("b", [2]), ("a", [3, 4]), ("a", [5, 6]), ("b", [7]), ("a", [8])]
    found, batches = run(lambda batcher, draw: behind(batcher, draw, *asked))
    assert found == [[2 * row for row in rows] for _, rows in asked]
    assert batches[1:] == [("a", [1, 3, 4, 8]), ("b", [2, 7]), ("a", [5, 6])]


def test_a_long_request_lets_short_ones_in_between():
    found, batches = run(lambda batcher, draw: behind(batcher, draw, ("a", list(range(1, 11))), ("b", [11, 12])))
    assert found == [[2 * row for row in range(1, 11)], [22, 24]]
    assert [how for how, _ in batches[1:]] == ["a", "b", "a", "a"]
    assert [len(rows) for _, rows in batches[1:]] == [4, 2, 4, 2]


def test_a_batch_that_fails_is_drawn_again_request_by_request():
    asked = [("a", [1]), ("a", [-1]), ("a", [-2]), ("a", [3])]
    found, batches = run(lambda batcher, draw: behind(batcher, draw, *asked))
    assert found[0] == [2] and found[3] == [6]
    assert isinstance(found[1], InputError) and isinstance(found[2], RunError)
    assert [rows for _, rows in batches[1:]] == [[1, -1, -2, 3], [1], [-1], [-2], [3]]


def test_what_nobody_waits_for_is_not_drawn():
    async def use(batcher, draw):
        first = asyncio.create_task(batcher.submit("a", [0]))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(batcher.submit("a", [1, 2, 3]))
        with pytest.raises(TimeoutError):
            await first
        with pytest.raises(TimeoutError):
            await late
        draw.go_on.set()
        return await batcher.submit("a", [4])

    found, batches = run(use, seconds=0.2)
    assert found == [8] and batches == [("a", [0]), ("a", [4])]


def test_no_more_waits_than_may():
    async def use(batcher, draw):
        first = asyncio.create_task(batcher.submit("a", [0]))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.submit("a", [1, 2, 3]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit("a", [4, 5])
        third = asyncio.create_task(batcher.submit("a", [6]))
        await asyncio.sleep(0)
        draw.go_on.set()
        return await first, await second, await third

    assert run(use, max_waiting=4)[0] == ([0], [2, 4, 6], [12])


def test_a_batch_holds_what_its_rows_cost():
    asked = [("aa", [1, 2]), ("aa", [3]), ("a", [4, 5, 6, 7]), ("aaaaa", [8, 9])]
    found, batches = run(lambda batcher, draw: behind(batcher, draw, *asked), cost=len)
    assert found == [[2 * row for row in rows] for _, rows in asked]
    assert batches[1:] == [("aa", [1, 2]), ("aa", [3]), ("a", [4, 5, 6, 7]), ("aaaaa", [8]), ("aaaaa", [9])]
