"""What a folder was made of, so that results of other items, rows or settings are not mixed with it unnoticed."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from catalog.errors import InputError
from interactions.log import OPTIONAL

COLUMNS = {"user", "history", "target", *OPTIONAL, *(f"history_{name}" for name in OPTIONAL)}
"""What splits hold. Further columns, such as those that a trainer adds, do not say where rows are from."""


@dataclass(frozen=True)
class Provenance:
    """What decides a prepared folder, a fitted recommender, a run or an evaluation.

    catalog: the catalog's fingerprint. splits: the digest of the rows of each split that was used, see `rows_digest`.
    settings: what decides the result beside the data; values as JSON has them.
    """

    catalog: str
    splits: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_rows(
        cls, catalog: str, rows: Mapping[str, Dataset], settings: Mapping[str, Any] | None = None
    ) -> "Provenance":
        """From a catalog's fingerprint and the rows of each split, by the columns that splits hold."""
        digests = {}
        for name, some in rows.items():
            known = [column for column in some.column_names if column in COLUMNS]
            digests[name] = rows_digest(some.select_columns(known))
        return cls(catalog, digests, settings or {})

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "Provenance":
        """What `as_dict` gave."""
        return cls(table["catalog"], dict(table["splits"]), dict(table["settings"]))

    def as_dict(self) -> dict[str, object]:
        """For a JSON file."""
        return asdict(self)

    def differences(self, other: "Provenance") -> dict[str, tuple[object, object]]:
        """What differs, name -> (here, there): `catalog`, `splits.<name>` of splits that both know, `settings.<name>`.

        A setting that only one of the two has counts as None in the other.
        """
        found: dict[str, tuple[object, object]] = {"catalog": (self.catalog, other.catalog)}
        found |= {f"splits.{n}": (self.splits[n], other.splits[n]) for n in self.splits if n in other.splits}
        for name in sorted({*self.settings, *other.settings}):
            found[f"settings.{name}"] = (self.settings.get(name), other.settings.get(name))
        return {name: pair for name, pair in found.items() if pair[0] != pair[1]}

    def check(self, other: "Provenance", what: str, remedy: str, file: str | Path | None = None) -> None:
        """Raise InputError where `other` was made of something else.

        what: names `other` in the message. remedy: the sentence that follows. The error's field is the name of the
        first difference, its value what `other` has.
        """
        if found := self.differences(other):
            shown = ", ".join(f"{name} is {there!r}, not {here!r}" for name, (here, there) in found.items())
            first = next(iter(found))
            raise InputError(
                f"{what} was made of something else: {shown}.",
                remedy=remedy,
                file=file,
                field=first,
                value=found[first][1],
            )


def rows_digest(rows: Dataset) -> str:
    """A digest of all columns of rows in their order, whatever file or memory they lie in; 16 hexadecimal digits."""
    table = rows.with_format("arrow")[:]
    digest = hashlib.sha256(str(len(rows)).encode())
    for name in sorted(table.column_names):
        digest.update(name.encode())
        _add(digest, table[name].combine_chunks())
    return digest.hexdigest()[:16]


def _add(digest: "hashlib._Hash", column: pa.Array) -> None:
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        digest.update(column.value_lengths().to_numpy(zero_copy_only=False).astype(np.float64))
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        digest.update(values.astype(np.float64, order="C"))  # one form, whatever width a file was written with
    else:
        digest.update(pd.util.hash_array(values.astype(str).astype(object)).tobytes())
