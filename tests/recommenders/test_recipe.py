"""The recipe: several models by one command, each with its metrics."""

import json

import pytest

from experiments.evaluations import read_evaluation
from interactions import save_prepared
from recipes.recommenders import main
from recommenders import load_recommender

MODELS = {
    "popularity": {},
    "near": {"kind": "item_knn", "neighbors": 5},
    "both": {"kind": "mixture", "weights": {"popularity": 0.5, "near": 0.5}},
}


@pytest.fixture
def argv(blocks, catalog, tmp_path):
    save_prepared(tmp_path / "data", catalog, blocks)
    return ["--data", f"{tmp_path}/data", "--output_dir", f"{tmp_path}/out", "--models", json.dumps(MODELS)]


def test_every_model_is_stored_and_measured(argv, catalog, tmp_path, capsys):
    main(argv)
    table = capsys.readouterr().out
    for name in MODELS:
        assert f"| {name} |" in table
        load_recommender(tmp_path / "out" / name, catalog)
        assert json.loads((tmp_path / "out" / name / "recommender.json").read_text())["seconds"] > 0
        for split in ("validation", "test"):
            found = read_evaluation(tmp_path / "out" / name, split)
            how = {"split": split, "exclude_history": True, "users": 60, "unrankable": 0, "hit": "item"}
            how |= {"held_out": f"{split} rows of one's own", "trained_on": "training rows of one's own"}
            how |= {"untrained_targets": 0, "untrained_users": 0}
            assert found.record["protocol"] == how and found.record["metrics"]["recall@50"] == 1
    near = read_evaluation(tmp_path / "out" / "near", "test").record["metrics"]
    assert near["recall@10"] > 0.75  # 11 of the 20 items of the group are still unseen


def test_some_models_alone(argv, tmp_path, capsys):
    main([*argv, "--only", "near"])
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["near"]
    assert "| near |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--only", "far"], "error: only: 'far' is not one of the models"),
        (["--only", "both"], "popularity holds no fitted recommender. Fit it first"),
        (["--models", "near: {}"], "error: models='near: {}' is not JSON"),
        (["--models", '{"knn": {}}'], "error: 'knn' is not a kind of recommender"),
    ],
)
def test_a_slip_ends_in_one_sentence(argv, extra, message):
    with pytest.raises(SystemExit) as stopped:
        main([*argv, *extra])
    assert message in str(stopped.value)
