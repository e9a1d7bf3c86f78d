"""What a recommender leaves out of its counts on training rows."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from interactions.prompts import ROW_NUMBER
from recommenders import Popularity
from trainer.user_items import UserItems


@pytest.mark.parametrize("name", [str, int, lambda n: None if n == 3 else f"u{n}"])
def test_a_row_has_all_items_of_its_user_once_and_in_order(name):
    draw = np.random.default_rng(0)
    rows = [
        {
            "user": name(int(draw.integers(6))),
            "history": draw.integers(0, 30, draw.integers(1, 9)).tolist(),
            "target": int(draw.integers(30)),
        }
        for _ in range(40)
    ]
    found = UserItems(Dataset.from_list(rows))
    for number, row in enumerate(rows):
        own = [other for other in rows if other["user"] == row["user"]]
        assert found[number] == sorted({item for other in own for item in (*other["history"], other["target"])})


@pytest.mark.parametrize("settings", [{}, {"random_cut": True}])
def test_rows_that_are_cut_or_numbered_already_get_the_items_of_their_user(settings, make_trainer, train_rows):
    counts = Popularity(torch.ones(48))
    numbered = train_rows.add_column(ROW_NUMBER, [0] * len(train_rows))  # as another trainer left them
    trainer = make_trainer(rows=numbered, recommender_model=counts, rewards={"collaborative": 1.0}, **settings)
    rows = trainer.train_dataset.select(range(6, 12)).to_list()
    for row, read in zip(rows, trainer.rows(rows, 0), strict=True):
        assert read["user_items"] == sorted({*row["history"], row["target"]})
