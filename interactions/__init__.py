"""What users did, read from logs, split, and turned into the rows that every method trains and is tested on.

log.py        files -> one table of user, item, timestamp (behavior, rating): `read_log`, then `k_core`, `in_order`
tables.py     the cells of a file, each with its line; numbers.py: its numbers and times, exact
items.py      the titles of items: `read_items`; vectors.py: their vectors, `read_vectors`
split.py      table -> leave-one-out rows of user, history, target (and what is known of both): `leave_one_out` gives
              `Splits`, with `save`, `load`; `training_matrix` and `training_counts` for classical recommenders
rows.py       a row as it was at an earlier item: `cut`, and at each of its items: `prefixes`;
              what is wrong with rows: `check_rows`, `unrankable`
prepared.py   catalogue and splits as one folder: `save_prepared`, `load_prepared`
movielens.py  a public log to start from: `fetch_movielens_100k`, `read_titles`
prompts.py    rows -> what the model reads: `PromptBuilder` makes a `PromptBatch`
texts.py      the same as text: `prompt_texts` of a batch, `item_texts` of items
"""

from interactions.items import read_items
from interactions.log import in_order, k_core, read_log
from interactions.movielens import fetch_movielens_100k, read_titles
from interactions.prepared import check_free, load_prepared, save_prepared
from interactions.prompts import PromptBatch, PromptBuilder
from interactions.rows import check_rows, cut, prefixes, unrankable
from interactions.split import Splits, leave_one_out, training_counts, training_matrix
from interactions.texts import item_texts, prompt_texts
from interactions.vectors import read_vectors, vector_ids

__all__ = [
    "PromptBatch",
    "PromptBuilder",
    "Splits",
    "check_free",
    "check_rows",
    "cut",
    "fetch_movielens_100k",
    "in_order",
    "item_texts",
    "k_core",
    "leave_one_out",
    "load_prepared",
    "prefixes",
    "prompt_texts",
    "read_items",
    "read_log",
    "read_titles",
    "read_vectors",
    "save_prepared",
    "training_counts",
    "training_matrix",
    "unrankable",
    "vector_ids",
]
