"""What `recommend.py` can be told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from catalog.errors import InputError
from catalog.settings import Arguments, as_table, at_least

ENDINGS = (".parquet", ".jsonl")


@dataclass
class RecommendArguments(Arguments):
    """What `recommend.py` can be told."""

    model: str = field(metadata={"help": "Folder of a finished run, or one that save_pretrained wrote."})
    output: str = field(metadata={"help": "File for one row a user, .parquet or .jsonl."})
    histories: str | None = field(
        default=None,
        metadata={
            "help": "Whom to recommend to: .csv, .jsonl or .parquet with rows of events (user, item, timestamp) or one "
            "row a user (history, user)."
        },
    )
    columns: dict[str, str] | str | None = field(
        default=None, metadata={"help": "Names of the columns of `histories`, for instance {item: asin}."}
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "Instead of histories: folder that prepare.py or extend.py wrote, all of whose users and items."
        },
    )
    split: Literal["validation", "test"] = field(
        default="test", metadata={"help": "Of data: the split whose histories are taken, up to its held-out items."}
    )
    catalog: str | None = field(
        default=None,
        metadata={
            "help": "With histories: folder of a catalog that grew from the model's, as extend.py writes it; its new "
            "items may come too."
        },
    )
    k: int = field(default=10, metadata={"help": "Items a user."})
    beam_width: int | None = field(
        default=None, metadata={"help": "Width of the trie-constrained beam; by default what k asks for."}
    )
    exclude_seen: bool = field(default=True, metadata={"help": "Leave items of the user's own history out."})
    exclude: str | None = field(
        default=None,
        metadata={
            "help": "File of items that are not recommended: .txt with one a line, or a table with the column item; "
            "with the column user too, items that this user is not recommended."
        },
    )
    filter: str | None = field(
        default=None, metadata={"help": "File of the only items that may be recommended: .txt or a table, likewise."}
    )
    guide: str | None = field(
        default=None, metadata={"help": "Folder of a fitted recommender that guides each step of the beam."}
    )
    guide_weight: float = field(default=1.0, metadata={"help": "Weight of the guide against the policy, > 0."})
    diversity: float = field(default=0.0, metadata={"help": "How much a list avoids items that are alike, >= 0."})
    engine: Literal["transformers", "vllm"] = field(default="transformers", metadata={"help": "What runs the model."})
    engine_settings: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Further arguments of vllm.LLM, for instance {gpu_memory_utilization: 0.9}."}
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda or cuda:1; by default the first GPU, else the CPU."}
    )
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata={"help": "Of the model's weights."})
    batch_size: int = field(default=64, metadata={"help": "Users per forward."})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "k", "beam_width", "batch_size")
        at_least(self, 0, "guide_weight", strictly=True)
        at_least(self, 0, "diversity")
        if self.beam_width is not None and self.beam_width < self.k:
            raise InputError(
                f"beam_width={self.beam_width} is below k={self.k}.",
                remedy=f"Set it to {self.k} or more.",
                field="beam_width",
                value=self.beam_width,
            )
        if bool(self.histories) == bool(self.data):
            raise InputError(
                "Give either histories, a file, or data, a prepared folder.", field="data" if self.data else "histories"
            )
        if self.data and self.catalog:
            raise InputError(
                f"data={self.data} has a catalog of its own.",
                remedy="Leave catalog out; it is for histories of a file.",
                field="catalog",
                value=self.catalog,
            )
        if Path(self.output).suffix not in ENDINGS:
            raise InputError(
                f"output={self.output}: results are written as Parquet or JSON lines.",
                remedy=f"Let its name end in one of {list(ENDINGS)}.",
                field="output",
                value=self.output,
            )

    @property
    def names(self) -> dict[str, str]:
        """`columns`, which a recipe gives as a table and the command line as JSON."""
        return as_table("columns", self.columns)

    @property
    def engine_table(self) -> dict[str, Any]:
        """`engine_settings`, likewise."""
        return as_table("engine_settings", self.engine_settings)
