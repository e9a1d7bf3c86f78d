"""The file that a program recommends into: made of parts that outlive a killed process, then whole or absent.

Beside `recs.parquet` lies `.recs.parquet.parts/` while it is made, with the parts and what they are made of. Afterwards
there is `recs.parquet.json`, the record: what the file is made of, its SHA-256 and its counts.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import InputError
from catalog.files import complete, file_digest, read_json, write_json
from interactions.histories import History
from interactions.provenance import Provenance
from recommenders import RankedList

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("titles", pa.list_(pa.string())),
        ("source", pa.string()),
        ("unknown", pa.int64()),
        ("error", pa.string()),
    ]
)
ROWS_AT_ONCE = 16384
"""Rows of the output that are in memory together while parts are put together."""


@dataclass(frozen=True)
class Recommendations:
    """One output file. made_of: what decides its content. parts: how many it is made in."""

    path: Path
    made_of: Provenance
    parts: int

    @property
    def record_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def parts_folder(self) -> Path:
        return self.path.with_name(f".{self.path.name}.parts")

    def part_path(self, number: int) -> Path:
        return self.parts_folder / f"{number:08d}.parquet"

    def finished(self) -> dict[str, Any] | None:
        """The counts of the file where it is there and made of the same, else None.

        Raises InputError where the path holds something that was not written here, which would be lost.
        """
        if not self.path.exists() and not self.path.is_symlink():
            return None
        record = read_json(self.record_path, "The record") if self.record_path.is_file() else {}
        digest = file_digest(self.path) if self.path.is_file() else None
        if digest is None or digest not in (record.get("sha256"), record.get("replaces")):
            raise InputError(
                f"{self.path} exists and is not what {self.record_path.name} describes, so it may be something else.",
                remedy="Move it away or give another output.",
                file=self.path,
                field="output",
            )
        same = not Provenance.from_dict(record["of"]).differences(self.made_of)
        return record["counts"] if same and digest == record["sha256"] else None

    def missing(self) -> list[int]:
        """The parts that are still to be made. Parts of something else are removed, with a line in the log."""
        record = self.parts_folder / "record.json"
        if self.parts_folder.exists():
            of = read_json(record, "The record of the parts") if record.is_file() else None
            found = Provenance.from_dict(of).differences(self.made_of) if of else {"record": (None, None)}
            if found:
                logger.warning("%s: parts of another call are left out: %s differ", self.path, ", ".join(found))
                shutil.rmtree(self.parts_folder)
        write_json(record, self.made_of.as_dict())
        return [number for number in range(self.parts) if not self.part_path(number).exists()]

    def write_part(self, number: int, histories: Sequence[History], ranked: Sequence[RankedList]) -> None:
        """Keep the lists of one part. Raises SetupError where the disk is full."""
        rows = [
            {"user": history.user, **{name: getattr(one, name) for name in SCHEMA.names[1:]}}
            for history, one in zip(histories, ranked, strict=True)
        ]
        with complete(self.part_path(number)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)

    def put_together(self) -> dict[str, Any]:
        """All parts as one file, in their order, and the record beside it; returns the counts. The parts are removed.

        Where the process is killed in between, the next call does the same again. Raises SetupError.
        """
        counts = dict.fromkeys(("users", "by_popularity", "unknown_items", "errors"), 0)
        replaces = file_digest(self.path) if self.path.is_file() else None
        with complete(self.path) as temporary:
            write = _write_parquet if self.path.suffix == ".parquet" else _write_lines
            write(temporary, self._tables(counts))
            record = {"of": self.made_of.as_dict(), "sha256": file_digest(temporary), "replaces": replaces}
            write_json(self.record_path, record | {"counts": counts})
        self.discard_parts()
        return dict(counts)

    def discard_parts(self, *, unless_made: bool = False) -> None:
        """Remove the parts; with `unless_made` only where none has been made."""
        if unless_made and any(self.parts_folder.glob("*.parquet")):
            return
        shutil.rmtree(self.parts_folder, ignore_errors=True)

    def _tables(self, counts: dict[str, int]) -> Iterator[pa.Table]:
        """The rows of all parts, many at a time, which are counted on the way."""
        held: list[pa.Table] = []
        for number in range(self.parts):
            held.append(self._part(number))
            if sum(map(len, held)) >= ROWS_AT_ONCE or number == self.parts - 1:
                table, held = pa.concat_tables(held), []
                _count(counts, table)
                yield table

    def _part(self, number: int) -> pa.Table:
        path = self.part_path(number)
        try:
            return pq.read_table(path, schema=SCHEMA)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path} cannot be read ({' '.join(str(error).split())}).", remedy="Delete it and go on.", file=path
            ) from error


def _count(counts: dict[str, int], table: pa.Table) -> None:
    counts["users"] += len(table)
    counts["by_popularity"] += table["source"].to_pylist().count("popularity")
    counts["unknown_items"] += sum(table["unknown"].to_pylist())
    counts["errors"] += len(table) - table["error"].null_count


def _write_parquet(path: Path, tables: Iterator[pa.Table]) -> None:
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)


def _write_lines(path: Path, tables: Iterator[pa.Table]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
