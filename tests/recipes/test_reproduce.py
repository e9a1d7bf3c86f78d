"""The whole road from a data set's files to the results page, rehearsed on made-up files in LETTER's layout."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from recipes.reproduce import main
from tests.stages import run_here

RECIPE = "recipes/beauty/cpu.yaml"


@pytest.fixture
def source(tmp_path):
    """70 users with five to nine of 40 items each, semantic IDs of four codes and titles."""
    rng, folder = np.random.default_rng(0), tmp_path / "source"
    folder.mkdir()
    log = {str(user): rng.permutation(40)[: rng.integers(5, 10)].tolist() for user in range(70)}
    codes = [[item // 20, item // 5 % 4, item % 5, 3] for item in range(40)]
    index = {str(i): [f"<{letter}_{c}>" for letter, c in zip("abcd", row, strict=True)] for i, row in enumerate(codes)}
    items = {str(item): {"title": f"Soap {item}"} for item in range(40)}
    for name, content in (("inter", log), ("index.letter", index), ("item", items)):
        (folder / f"Beauty.{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_a_rehearsal_ends_with_the_table_of_every_method(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.sweep.run_stages", run_here)
    folder = tmp_path / "out"
    argv = ["--config", RECIPE, "--source", str(source), "--smoke", str(folder)]
    main(argv)
    methods = json.loads((folder / "beauty.json").read_text())
    from_scratch = {"sft", "sft_longer", "gflownet_scratch"}
    stages = {"sft_continued", "dpo", "sdpo", "grpo", "gflownet_tb", "gflownet", "sft_guided"}
    assert from_scratch | stages | {"mixture", "sasrec", "hstu", "item_knn"} <= methods.keys()
    assert all(0 <= row["recall@10"]["mean"] <= 1 for row in methods.values())
    page = (folder / "beauty.md").read_text()
    assert (
        "60 test rows, held out: each user's last item" in page
        and "| LETTER-TIGER | 0.0431 | 0.0672 |" in page
        and "All stages together took" in page
    )
    assert "(beauty.svg)" in page
    drawn = ElementTree.parse(folder / "beauty.svg").getroot()
    assert methods.keys() - {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")} == set()

    written = (folder / "runs/gflownet/seed_42/model.safetensors").stat().st_mtime_ns
    (folder / "beauty.md").write_text(f"Before.\n\n{page}\nAfter.\n")
    main(argv)  # everything is there: only the table is written anew, in its place
    assert (folder / "runs/gflownet/seed_42/model.safetensors").stat().st_mtime_ns == written
    assert (folder / "beauty.md").read_text() == f"Before.\n\n{page}\nAfter.\n"


def test_a_folder_without_the_files_is_one_sentence(tmp_path):
    argv = ["--config", RECIPE, "--source", str(tmp_path), "--smoke", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"Beauty.inter.json does not exist. Give the folder with Beauty.inter.json, "):
        main(argv)
