"""How a log becomes a catalogue and splits: the settings of `prepare`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from catalog.errors import InputError
from catalog.settings import Arguments, at_least


@dataclass
class DataArguments(Arguments):
    """Settings of `prepare`."""

    output_dir: str = field(metadata={"help": "Folder for the catalogue and the splits."})
    log: str = field(
        metadata={
            "help": "Interaction log: .csv, .jsonl, .parquet, .inter, .inter.json; or 'movielens-100k', fetched once."
        }
    )
    columns: dict[str, str] | str | None = field(
        default=None, metadata={"help": "Names of the log's columns, for instance {user: uid, timestamp: ts}."}
    )
    min_interactions: int = field(default=5, metadata={"help": "k of the k-core: users and items with fewer go."})
    max_history: int = field(default=20, metadata={"help": "Items in a training window before its target."})
    index: str | None = field(
        default=None,
        metadata={
            "help": "Semantic-ID index (JSON). Without one IDs are made; with one `vectors` serve to code later items."
        },
    )
    items: str | None = field(
        default=None,
        metadata={"help": "Item table with titles (JSON, CSV, ...), for reports, prompts and vectors of text."},
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
        default="kmeans", metadata={"help": "Residual k-means, or an RQ-VAE, which needs gflowgr[rq-vae]."}
    )
    codebook_sizes: list[int] = field(
        default_factory=lambda: [64, 64, 64], metadata={"help": "Codes of each level that the quantizer gives."}
    )
    on_collision: Literal["extend", "keep"] = field(
        default="extend", metadata={"help": "Items with equal codes: append a telling code, or keep them on one leaf."}
    )
    users: int | None = field(default=None, metadata={"help": "Keep the first users only, to try things out."})
    seed: int = field(default=0, metadata={"help": "Of vectors, quantizer and the order of the items."})
    cache: str = field(default=".cache", metadata={"help": "Where a fetched log is kept."})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "min_interactions", "max_history", "users")
        at_least(self, 0, "seed")
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise InputError(
                f"codebook_sizes={self.codebook_sizes}: each level has at least 1 code.",
                remedy="Give one size a level, for instance 64 64 64.",
                field="codebook_sizes",
                value=self.codebook_sizes,
            )


@dataclass
class ExtendArguments(Arguments):
    """Settings of `extend`."""

    data: str = field(metadata={"help": "Folder that prepare.py wrote, or extend.py."})
    output_dir: str = field(metadata={"help": "Folder for the grown catalogue and the same splits."})
    vectors: list[str] = field(
        metadata={
            "help": "Vectors of the new items, from what made the catalogue's: a file .npz (ids, vectors), or a folder "
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
