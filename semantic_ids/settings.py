"""How a log becomes a catalog and splits: the settings of `prepare`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from catalog.errors import InputError
from catalog.settings import Arguments, at_least

HISTORIES = "histories"
"""In place of a training file: train on what precedes each user's first validation row."""


@dataclass
class DataArguments(Arguments):
    """Settings of `prepare`."""

    output_dir: str = field(metadata={"help": "Folder for the catalog and the splits."})
    log: str | None = field(
        default=None,
        metadata={
            "help": "Interaction log: .csv, .jsonl, .parquet, .inter, .inter.json; a raw file of Amazon reviews, "
            "MovieLens, Yelp or Steam; or 'movielens-100k', fetched once."
        },
    )
    columns: dict[str, str] | str | None = field(
        default=None,
        metadata={"help": "Names of the columns of the log or the rows, for instance {user: uid, timestamp: ts}."},
    )
    split: Literal["leave_one_out", "time"] = field(
        default="leave_one_out",
        metadata={"help": "Of a log: hold out each user's last two items, or what comes after two points in time."},
    )
    split_at: list[str] | None = field(
        default=None,
        metadata={
            "help": "Of split time: where validation and test begin, two quantiles of the events (by default 0.8 0.9), "
            "or two times as the log has them or as dates."
        },
    )
    train: str | None = field(
        default=None,
        metadata={
            "help": "Instead of a log: rows of your own with user, history and target; or 'histories', to train on "
            "what precedes each user's first validation row."
        },
    )
    validation: str | None = field(default=None, metadata={"help": "Rows of your own to validate on."})
    test: str | None = field(default=None, metadata={"help": "Rows of your own to test on."})
    min_interactions: int = field(
        default=5, metadata={"help": "Of a log, k of the k-core: users and items with fewer go."}
    )
    max_history: int = field(default=20, metadata={"help": "Items in a training window before its target."})
    index: str | None = field(
        default=None,
        metadata={
            "help": "Semantic-ID index (JSON). Without one IDs are made; with one `vectors` serve to code later items."
        },
    )
    items: str | None = field(
        default=None,
        metadata={
            "help": "Item table with titles (JSON, CSV, ..., or the raw one of a public data set), for reports, "
            "prompts and vectors of text."
        },
    )
    vectors: list[str] | None = field(
        default=None,
        metadata={
            "help": "What IDs are made from: cooccurrence (the default), als, sasrec; a file .npz (ids, vectors) or "
            ".npy (rows in the order of the sorted item ids); a folder of a sentence-transformers model, which reads "
            "the titles. Several are fused."
        },
    )
    quantizer: Literal["kmeans", "rq_vae"] = field(
        default="kmeans", metadata={"help": "Residual k-means, or an RQ-VAE, which needs the extra rq-vae."}
    )
    codebook_sizes: list[int] | None = field(
        default=None,
        metadata={
            "help": "Codes of each level that the quantizer gives; by default three levels that follow the number of "
            "items."
        },
    )
    on_collision: Literal["extend", "keep", "nearest"] | None = field(
        default=None,
        metadata={
            "help": "Items with equal codes: append a telling code (the default where codebook_sizes or an index are "
            "given), keep them on one leaf, or give all but one the nearest semantic ID that is free (the default "
            "where neither is)."
        },
    )
    license: str | None = field(
        default=None, metadata={"help": "License of the data, which model cards of what is trained on them state."}
    )
    users: int | None = field(
        default=None, metadata={"help": "Of a log: keep only its first users, to try things out."}
    )
    seed: int = field(default=0, metadata={"help": "Of vectors, quantizer and the order of the items."})
    cache: str = field(default=".cache", metadata={"help": "Where a fetched log is kept."})

    @property
    def _rows(self) -> dict[str, str | None]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def files(self) -> dict[str, str]:
        """The files of rows of one's own, by split; "histories" is none."""
        return {name: path for name, path in self._rows.items() if path and path != HISTORIES}

    def __post_init__(self) -> None:
        if isinstance(self.split_at, list):
            self.split_at = [str(time) for time in self.split_at]  # a recipe has numbers and dates
        super().__post_init__()
        self._check_source()
        at_least(self, 1, "min_interactions", "max_history", "users")
        at_least(self, 0, "seed")
        if self.codebook_sizes is not None and min(self.codebook_sizes, default=0) < 1:
            raise InputError(
                f"codebook_sizes={self.codebook_sizes}: each level has at least 1 code.",
                remedy="Give one size a level, for instance 64 64 64.",
                field="codebook_sizes",
                value=self.codebook_sizes,
            )
        if self.on_collision is None:
            self.on_collision = "extend" if self.codebook_sizes or self.index else "nearest"
        if self.on_collision == "nearest" and self.index:
            raise InputError(
                f"on_collision=nearest would change the semantic IDs of index={self.index}.",
                remedy="Use extend or keep.",
                field="on_collision",
                value="nearest",
            )

    def _check_source(self) -> None:
        """Raise InputError unless there is a log or rows of one's own, with the settings of the one there is."""
        rows = self._rows
        missing = [name for name, path in rows.items() if path is None]
        if self.log is None and missing:
            remedy = "Give a log, or train, validation and test."
            if missing == ["train"]:
                remedy = f"Give the training rows, or train={HISTORIES} where there are none."
            name = missing[0] if len(missing) < len(rows) else "log"
            raise InputError(f"{name} is missing.", remedy=remedy, field=name)
        unread: dict[str, Any]
        if self.log is None:
            reason, unread = "rows of your own are split already", {"split_at": self.split_at, "users": self.users}
            unread["split"] = self.split if self.split != "leave_one_out" else None
        else:
            reason, unread = f"log={self.log} is split here", rows
            if self.split != "time" and self.split_at is not None:
                reason, unread = f"split={self.split} has no times", {"split_at": self.split_at}
        for name, value in unread.items():
            if value is not None:
                raise InputError(
                    f"{name}={value} would not be read: {reason}.", remedy="Leave it out.", field=name, value=value
                )


@dataclass
class ExtendArguments(Arguments):
    """Settings of `extend`."""

    data: str = field(metadata={"help": "Folder that prepare.py wrote, or extend.py."})
    output_dir: str = field(metadata={"help": "Folder for the grown catalog and the same splits."})
    vectors: list[str] = field(
        metadata={
            "help": "Vectors of the new items, from what made the catalog's: a file .npz (ids, vectors), or a folder "
            "of a sentence-transformers model, which reads the titles of `items`. As many as were fused, in that order."
        }
    )
    items: str | None = field(default=None, metadata={"help": "Item table with the titles of the new items."})

    def __post_init__(self) -> None:
        super().__post_init__()
        files = [source for source in self.vectors if source.endswith(".npz")]
        folders = [source for source in self.vectors if source not in files]
        if wrong := [source for source in folders if not (Path(source) / "config.json").is_file()]:
            raise InputError(
                f"vectors: {wrong[0]!r} is no .npz file and no folder of a model.",
                remedy="New items have no interactions to make vectors from: give a file with their ids.",
                field="vectors",
                value=wrong[0],
            )
        if folders and not self.items:
            raise InputError(
                f"vectors: {folders[0]} reads titles, and there are none.",
                remedy="Give the item table as items.",
                field="items",
            )
