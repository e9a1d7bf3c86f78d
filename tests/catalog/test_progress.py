"""Long work without a terminal: plain lines, and none where it is short or switched off."""

import io

import pytest

import catalog.progress
from catalog.progress import progress


@pytest.fixture
def out():
    return io.StringIO()


def test_work_of_less_than_a_minute_says_nothing(out):
    assert list(progress(range(3), desc="ranking", file=out)) == [0, 1, 2] and out.getvalue() == ""


def test_longer_work_is_a_line_each_time_without_what_redraws_a_bar(out, monkeypatch):
    monkeypatch.setattr(catalog.progress, "SECONDS", 0.0)
    with progress(total=2, desc="stages", file=out) as lines:
        lines.set_postfix({"loss": 0.5}, refresh=False)
        lines.update()
        lines.update()
    text = out.getvalue()
    assert "\r" not in text and "stages: 1/2 in " in text and "loss=0.5" in text
    assert text.splitlines()[-1].startswith("stages: 2/2 in ")


def test_it_can_be_switched_off(out, monkeypatch):
    monkeypatch.setattr(catalog.progress, "SECONDS", 0.0)
    assert list(progress(range(2), desc="x", file=out, disable=True)) == [0, 1] and out.getvalue() == ""


def test_on_a_terminal_it_is_a_bar(out, monkeypatch):
    monkeypatch.setattr(out, "isatty", lambda: True, raising=False)
    list(progress(range(2), desc="ranking", file=out))
    assert "\r" in out.getvalue()
