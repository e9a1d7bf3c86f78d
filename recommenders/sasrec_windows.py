"""What SASRec is trained on: windows of the training sequences."""

import numpy as np
from datasets import Dataset


class Windows:
    """(user, up to max_length + 1 items): each item of a sequence but its first is a target in exactly one window.

    sequences: rows of `history`, of a user each. targets: how many a window has on average.
    """

    def __init__(self, sequences: Dataset, max_length: int) -> None:
        history = sequences.select_columns("history").with_format("arrow")[:]["history"].combine_chunks()
        length = np.asarray(history.value_lengths(), np.int64)  # [users]
        count = -(-np.maximum(length - 1, 0) // max_length)
        self._user = np.repeat(np.arange(len(length), dtype=np.int32), count)  # [windows]
        newer = np.arange(len(self._user)) - (count.cumsum() - count)[self._user]  # windows of the user behind it
        first = (length.cumsum() - length)[self._user]
        self._items = history.flatten().to_numpy()
        self._end = first + length[self._user] - newer * max_length
        self._start = np.maximum(first, self._end - max_length - 1)
        self.targets = float((self._end - self._start - 1).mean()) if len(self) else 0.0

    def __len__(self) -> int:
        return len(self._user)

    def __getitem__(self, window: int) -> tuple[int, list[int]]:
        return int(self._user[window]), self._items[self._start[window] : self._end[window]].tolist()
