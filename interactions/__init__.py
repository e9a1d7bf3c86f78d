"""What users did, read from logs, split, and turned into the rows that every method trains and is tested on.

log.py        files -> one table of user, item, timestamp (behaviour, rating): `read_log`, then `k_core`, `in_order`
split.py      table -> leave-one-out rows of user, history, target (and what is known of both): `leave_one_out` gives
              `Splits`, with `save`, `load`; `training_matrix` and `training_counts` for classical recommenders
rows.py       a row ended early: `cut`, and at each of its items: `prefixes`
movielens.py  a public log to start from: `fetch_movielens_100k`, `read_titles`
prompts.py    rows -> what the model reads: `PromptBuilder` makes a `PromptBatch`
texts.py      the same as text: `prompt_texts` of a batch, `item_texts` of items
"""

from interactions.log import in_order, k_core, read_log
from interactions.movielens import fetch_movielens_100k, read_titles
from interactions.prompts import PromptBatch, PromptBuilder
from interactions.rows import cut, prefixes
from interactions.split import Splits, leave_one_out, training_counts, training_matrix
from interactions.texts import item_texts, prompt_texts

__all__ = [
    "PromptBatch",
    "PromptBuilder",
    "Splits",
    "cut",
    "fetch_movielens_100k",
    "in_order",
    "item_texts",
    "k_core",
    "leave_one_out",
    "prefixes",
    "prompt_texts",
    "read_log",
    "read_titles",
    "training_counts",
    "training_matrix",
]
