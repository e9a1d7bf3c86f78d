"""What the README and the page say of using what was trained, run as it is written."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from interactions import leave_one_out, save_prepared
from recipes.__main__ import main
from recommenders import GenerativeRecommender
from recommenders.policy_folder import PolicyRecord, write_record

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECTION = README[README.index("## Use what was trained") : README.index("## Results")]


@pytest.fixture
def demo(make_model, tokenizer, catalog, tmp_path, monkeypatch):
    """A folder with what the section needs of `make demo`."""
    films = replace(catalog, item_ids=tuple(map(str, range(1, 49))), titles=tuple(f"Film {n}" for n in range(48)))
    run = tmp_path / "runs/demo/gflownet"
    make_model().save_pretrained(run)
    tokenizer.save_pretrained(run)
    write_record(run, PolicyRecord("gflownet", max_history=5), films, torch.ones(48, dtype=torch.int64))
    items = np.random.default_rng(0).integers(1, 49, 60).astype(str)
    log = pd.DataFrame({"user": np.repeat(["u", "v", "w"], 20), "item": items, "timestamp": range(60)})
    save_prepared(tmp_path / "runs/demo/data", films, leave_one_out(log, films.item_ids, max_history=5))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_lines_of_the_readme_recommend(demo, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    assert code in (ROOT / "docs/recommend.md").read_text() and len(code.strip().splitlines()) <= 6
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and all(line.count("'Film ") == 10 for line in said)


def test_the_lines_of_the_readme_train(demo):
    (demo / "runs/demo/gflownet").rename(demo / "runs/demo/sft")
    before = README[: README.index("## Use what was trained")]
    (code,) = re.findall(r"```python\n(.*?)```", before, re.S)
    assert len(code.strip().splitlines()) <= 15
    exec(compile(code, "README.md", "exec"), {})
    assert GenerativeRecommender.from_pretrained("runs/mine").recommend([["3"]], k=2)[0].items


def test_the_commands_of_the_readme_recommend(demo, capsys, monkeypatch):
    lines, serve = re.findall(r"```bash\n(.*?)\n```", SECTION, re.S)
    of_file, line = lines.splitlines()
    assert line in (ROOT / "docs/recommend.md").read_text() and serve in (ROOT / "docs/serving.md").read_text()
    (demo / "some.csv").write_text("user,item,timestamp\nu1,3,1\nu2,9,2\nu1,12,3\n")
    words = shlex.split(of_file, comments=True)
    done = subprocess.run([sys.executable, *words[1:]], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    found = pq.read_table(demo / "recs.parquet").to_pylist()
    assert [row["user"] for row in found] == ["u1", "u2"] and [len(row["items"]) for row in found] == [10] * 2
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    main()
    output = demo / "runs/demo/recommended.parquet"
    assert [len(row["items"]) for row in pq.read_table(output).to_pylist()] == [10] * 3
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Output: runs/demo/recommended.parquet" and said[1].startswith("Figures: users 3, ")
    assert said[2] == "Next: gflowgr serve --model runs/demo/gflownet"


def test_a_slip_is_one_sentence(demo):
    argv = ["--model", "runs/demo/gflownet", "--data", "runs/demo/data", "--output", "recs.csv"]
    done = subprocess.run(
        [sys.executable, ROOT / "recipes/recommend.py", *argv], cwd=demo, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("error: output=recs.csv") and done.stderr.count("\n") == 1
