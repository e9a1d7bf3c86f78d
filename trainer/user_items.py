"""What each user took in training, from the columns of the rows."""

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from scipy.sparse import csr_matrix


class UserItems:
    """All training items of a row's user in ascending order, by the number of the row.

    Made once without a Python object for a row: 4 bytes for each row and for each item of a user are kept.
    rows: with `user`, `history` and `target`.
    """

    def __init__(self, rows: Dataset) -> None:
        table = rows.select_columns(["user", "history", "target"]).with_format("arrow")[:]
        users = table["user"].combine_chunks().dictionary_encode()
        known = len(users.dictionary)  # rows without a user are of one more
        self._user = pc.fill_null(users.indices, known).to_numpy(zero_copy_only=False)  # [rows]
        history, target = table["history"].combine_chunks(), table["target"].combine_chunks().to_numpy()
        lengths = pc.list_value_length(history).to_numpy()
        item = np.concatenate([history.flatten().to_numpy(), target]).astype(np.int32, copy=False)  # [events]
        user = np.concatenate([np.repeat(self._user, lengths), self._user])
        taken = csr_matrix((np.ones(len(item), bool), (user, item)), (known + 1, int(item.max()) + 1))
        self._start, self._items = taken.indptr, taken.indices  # without duplicates, in ascending order

    def __getitem__(self, row: int) -> list[int]:
        user = self._user[row]
        return self._items[self._start[user] : self._start[user + 1]].tolist()
