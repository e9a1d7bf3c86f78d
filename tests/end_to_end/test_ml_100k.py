"""The recipes of MovieLens-100K from the command line, as a user runs them, for a few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes.train import main

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
REWARD = '''
"""A reward of the user's own, in a folder of the user's own."""

import torch


class Short:
    """More for items that lie early in the catalog."""

    def __init__(self, catalog):
        self.items = len(catalog)

    def __call__(self, batch, trajectories):
        return 1.0 - trajectories.items / self.items

    def catalog(self, batch):
        return (1.0 - torch.arange(self.items) / self.items).expand(len(batch), -1)
'''

SOME = ("--eval_users", "300")
FEW = ("--eval_users", "64")
"""For evaluations during training, whose results no test looks at."""

pytestmark = pytest.mark.slow


def run(*command: object, **environment: object) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "2"} | {name: str(value) for name, value in environment.items()}
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, item-kNN, and three steps of SFT."""
    folder = tmp_path_factory.mktemp("ml-100k")
    out = run(
        sys.executable, "recipes/prepare.py", "--config", "recipes/ml-100k/data.yaml", "--output_dir", folder / "data"
    )
    assert "users 943, items 1349, interactions 99287" in out
    run(
        sys.executable,
        "recipes/recommenders.py",
        "--config",
        "recipes/ml-100k/recommenders.yaml",
        "--data",
        folder / "data",
        "--output_dir",
        folder,
        "--only",
        "item_knn",
        "popularity",
        *SOME,
    )
    run(
        sys.executable,
        "recipes/train.py",
        "--config",
        "recipes/ml-100k/sft.yaml",
        "--data",
        folder / "data",
        "--output_dir",
        folder / "sft",
        "--max_steps",
        3,
        *FEW,
    )
    return folder


def test_a_reward_from_outside_the_repository_trains_under_accelerate_and_all_runs_are_compared(folder, tmp_path):
    (tmp_path / "my_rewards.py").write_text(REWARD)
    run(
        BIN / "accelerate",
        "launch",
        "--num_processes",
        1,
        "--cpu",
        "-m",
        "recipes.train",
        "--config",
        "recipes/ml-100k/gflownet.yaml",
        "--data",
        folder / "data",
        "--model",
        folder / "sft",
        "--recommender",
        folder / "item_knn",
        "--output_dir",
        folder / "gflownet",
        "--max_steps",
        5,
        "--logging_steps",
        1,
        *FEW,
        "--rewards",
        '{"behavior": 1.0, "collaborative": 1.0, "my_rewards:Short": 0.5}',
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
    )
    records = [json.loads(line) for line in (folder / "gflownet" / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if "loss" in record]
    assert len(trained) == 5 and all(record["sampler/valid_share"] == 1.0 for record in trained)
    assert all(record["sampler/distinct_share"] == 1.0 for record in trained)  # target and curriculum never meet
    assert 0.3 < trained[-1]["reward/mean"] < 2.5

    guide = ["--guide", folder / "item_knn"]
    for settings in ([folder / "sft"], [folder / "gflownet"], [folder / "gflownet", *guide]):
        run(
            sys.executable,
            "recipes/evaluate.py",
            "--data",
            folder / "data",
            "--reward_of",
            folder / "gflownet",
            *SOME,
            "--run",
            *settings,
            PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
        )
    out = run(
        sys.executable,
        "recipes/compare.py",
        "--baseline",
        "sft",
        "--runs",
        *(folder / name for name in ("sft", "gflownet", "gflownet_guided")),
        "--references",
        *(folder / name for name in ("item_knn", "popularity")),
        "--output_dir",
        folder,
    )
    assert out.strip().endswith("report.html")
    record = json.loads((folder / "comparison" / "metrics.json").read_text())
    metrics = {name: {n: value["mean"] for n, value in row.items()} for name, row in record["methods"].items()}
    assert set(metrics) == {"sft", "gflownet", "gflownet_guided", "item_knn", "popularity"}
    assert record["tests"]["recall@10"]["gflownet_guided"]["low"] > 0
    for name, row in metrics.items():
        assert {"recall@10", "ndcg@10", "recall@50", "coverage@10"} <= set(row)
        assert 0 < row["recall@10"] <= row["recall@50"] < 1
        assert ("tv" in row) == (name in ("sft", "gflownet"))
    assert metrics["item_knn"]["recall@10"] > metrics["popularity"]["recall@10"]
    # three steps of SFT know little, and the guide knows more
    assert metrics["gflownet_guided"]["recall@10"] > metrics["gflownet"]["recall@10"]
    page = (folder / "comparison" / "report.html").read_text()
    assert all(name in page for name in metrics) and "<svg" in page


def test_the_gflownet_recipe_works_alone(tmp_path):
    recipe = yaml.safe_load((ROOT / "recipes" / "ml-100k" / "gflownet.yaml").read_text())
    (tmp_path / "models.yaml").write_text(
        f"data: {tmp_path}\noutput_dir: {tmp_path}\nmodels:\n  item_knn: {{}}\n  sasrec: {{}}\n"
        "  mixture: {weights: {item_knn: 1.0}}\n"
    )
    recipe |= {
        "data": str(tmp_path / "data"),
        "output_dir": str(tmp_path / "run"),
        "recommender": str(tmp_path / "models" / "mixture"),
        "recommender_recipe": str(tmp_path / "models.yaml"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(sys.executable, "recipes/train.py", "--config", tmp_path / "recipe.yaml", "--max_steps", 2, *FEW)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["train"]["eval_recall@50"] > 0
    resolved = yaml.safe_load((tmp_path / "run" / "resolved.yaml").read_text())
    assert resolved["backbone"] == recipe["backbone"] and resolved["flow_weight"] == recipe["flow_weight"]
    made = {path.name for path in (tmp_path / "models").iterdir() if path.is_dir()}
    assert made == {"item_knn", "mixture"}  # what is needed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--reward_flor", "0.5"), "Did you mean reward_floor?"),
        (("--method", "gfn"), "is not one of"),
        (("--data", "nowhere"), "holds no prepared data"),
        (("--samplers", '{"target": 1, "beam": 2}'), "no sampler 'beam'"),
        (("--rewards", '{"hits": 1}'), "no reward 'hits'"),
        (("--rewards", '{"nothing:here": 1}'), "no module named 'nothing'"),
        (("--recommender", "nowhere"), "nowhere"),
        (("--trajectories", "9"), "sum to 5"),
        (("--rewards", '{"behavior": {"values": {"like": 1}}}'), "no column 'history_behavior'"),
    ],
)
def test_bad_input_ends_with_one_sentence_before_training(change, message, folder):
    folders = {"data": folder / "data", "output_dir": folder / "refused", "recommender": folder / "item_knn"}
    given = [text for name, path in folders.items() for text in (f"--{name}", str(path))]
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(ROOT / "recipes/ml-100k/gflownet.yaml"), *given, *change])
    said = ended.value.code  # Python prints it and ends with status 1
    assert isinstance(said, str) and said.startswith("error: ") and message in said and "\n" not in said
    assert not (folder / "refused" / "metrics.jsonl").exists()
