"""What users did, read from logs, split, and turned into the rows that every method trains and is tested on.

log.py        files -> one table of user, item, timestamp (behavior, rating): `read_log`, then `k_core`, `in_order`
layouts.py    how our files and the raw files of public data sets name their columns: `LOGS`, `ITEMS`
tables.py     the cells of a file, each with its line; lines.py: those read line by line; numbers.py: its numbers and
              times, exact
streaming.py  the rows of a file one after another, for files larger than the memory
histories.py  histories to recommend for, from a file or a split: `read_histories`, `split_histories`
items.py      the titles of items: `read_items`; vectors.py: their vectors, `read_vectors`
split.py      table -> rows of user, history, target (and what is known of both): `leave_one_out` gives `Splits`, with
              `save`, `load`
by_time.py    the same at two points in time: `by_time`; own_rows.py: files of rows: `read_rows`, `own_splits`
held_out.py   what a split holds out, in words: `HeldOut`
training.py   what training may see: `training_sequences`, `training_matrix`, `training_counts`, `untrained`
rows.py       a row as it was at an earlier item: `cut`, and at each of its items: `prefixes`;
              what is wrong with rows: `check_rows`, `unrankable`
prepared.py   catalog and splits as one folder: `save_prepared`, `load_prepared`
movielens.py  a public log to start from: `fetch_movielens_100k`, `read_titles`
prompts.py    rows -> what the model reads: `PromptBuilder` makes a `PromptBatch`
texts.py      the same as text: `prompt_texts` of a batch, `item_texts` of items
"""

from interactions.by_time import by_time
from interactions.held_out import HeldOut
from interactions.histories import History, HistorySource, read_histories, split_histories
from interactions.items import read_items
from interactions.log import in_order, k_core, read_log
from interactions.movielens import fetch_movielens_100k, read_titles
from interactions.own_rows import own_splits, read_rows
from interactions.prepared import check_free, load_prepared, save_prepared
from interactions.prompts import PromptBatch, PromptBuilder
from interactions.rows import check_rows, cut, prefixes, unrankable
from interactions.split import Splits, leave_one_out
from interactions.texts import item_texts, prompt_texts
from interactions.training import training_counts, training_matrix, training_sequences, untrained
from interactions.vectors import read_vectors, vector_ids

__all__ = [
    "History",
    "HistorySource",
    "HeldOut",
    "PromptBatch",
    "PromptBuilder",
    "Splits",
    "by_time",
    "check_free",
    "check_rows",
    "cut",
    "fetch_movielens_100k",
    "in_order",
    "item_texts",
    "k_core",
    "leave_one_out",
    "load_prepared",
    "own_splits",
    "prefixes",
    "prompt_texts",
    "read_histories",
    "read_items",
    "read_log",
    "read_rows",
    "read_titles",
    "read_vectors",
    "save_prepared",
    "split_histories",
    "training_counts",
    "training_matrix",
    "training_sequences",
    "unrankable",
    "untrained",
    "vector_ids",
]
