"""The page that goes from a log to recommendations, run line by line as it is written."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"


@pytest.mark.slow
def test_the_tutorial_runs_and_says_what_comes_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text, said = PAGE.read_text(), {}
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.S), 1):
        exec(compile(code, f"step {number} of {PAGE.name}", "exec"), said)
    before, after = said["before"], said["after"]
    assert after["eval_tv"] < before["eval_tv"] - 0.04
    wanted = before["eval_target_effective_items"]
    assert abs(after["eval_effective_items"] - wanted) < 0.5 * abs(before["eval_effective_items"] - wanted)
    assert min(before["eval_recall@10"], after["eval_recall@10"]) > 3 * 10 / 200  # far above chance
    assert {book.split()[0] for book in said["ranked"].items} <= {"crime", "poetry"}
    rows = re.findall(r"^\| `(eval_\S+)` \| ([\d.]+) \| ([\d.]+) \|", text, re.M)
    assert len(rows) == 4  # what the page promises is what comes out, up to another machine's rounding
    for name, *values in rows:
        assert [float(value) for value in values] == pytest.approx([before[name], after[name]], rel=0.15), name
