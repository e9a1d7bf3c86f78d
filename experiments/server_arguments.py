"""What the programs that serve over HTTP can be told."""

from dataclasses import dataclass, field
from typing import Any, Literal

from catalog.errors import InputError
from catalog.settings import Arguments, as_table, at_least


@dataclass(kw_only=True)
class ListenArguments(Arguments):
    """Where a server listens."""

    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen at; others than this machine's own are not encrypted."},
    )
    port: int = field(default=8000, metadata={"help": "Port to listen at, 1 to 65535."})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "port")
        if self.port > 65535:
            raise InputError(f"port={self.port}: it must be at most 65535.", field="port", value=self.port)


@dataclass(kw_only=True)
class ServeArguments(ListenArguments):
    """What `serve.py` can be told."""

    model: str = field(metadata={"help": "Folder of a finished run."})
    catalog: str | None = field(
        default=None,
        metadata={"help": "Folder of a catalog that grew from the model's (extend.py); its new items may come too."},
    )
    engine: Literal["transformers", "vllm"] = field(
        default="transformers", metadata={"help": "What computes the model's probabilities."}
    )
    engine_settings: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Of the engine vllm: further arguments of vllm.LLM, for instance {max_num_seqs: 512}."},
    )
    device: str | None = field(default=None, metadata={"help": "cpu or cuda:N; by default a GPU where there is one."})
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata={"help": "Of the weights."})
    guide: str | None = field(
        default=None, metadata={"help": "Folder of a fitted recommender for guided decoding, as in evaluate.py."}
    )
    guide_weight: float = field(default=1.0, metadata={"help": "Weight of the guide against the policy, > 0."})
    beam_width: int = field(
        default=50, metadata={"help": "Width of the beam where a request gives none and asks for no more items."}
    )
    max_batch: int = field(default=64, metadata={"help": "Histories that one forward of the model reads at most."})
    timeout: float = field(default=30.0, metadata={"help": "Seconds within which a request is answered, or refused."})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "beam_width", "max_batch")
        at_least(self, 0, "guide_weight", "timeout", strictly=True)

    @property
    def settings(self) -> dict[str, Any]:
        """`engine_settings`, which a recipe gives as a table and the command line as JSON."""
        return as_table("engine_settings", self.engine_settings)


@dataclass(kw_only=True)
class RolloutServerArguments(ListenArguments):
    """What `rollout_server.py` can be told."""

    model: str = field(metadata={"help": "Folder of a finished run, in safetensors; training sends newer weights."})
    data: str = field(metadata={"help": "Folder that prepare.py wrote."})
    max_history: int = field(default=50, metadata={"help": "Items in the longest history, at least training's own."})
    longest: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of the longest prompt, by default what max_history items need; with a prompt_template "
            "training says it."
        },
    )
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={
            "help": "Of the engine's weights: auto is bfloat16 on a GPU and float32 on a CPU; float32 draws from "
            "exactly the trained policy."
        },
    )
    weight_transfer: Literal["http", "nccl", "ipc"] = field(
        default="http",
        metadata={
            "help": "How the weights may come beside HTTP, as training has it: by NCCL, or on one GPU by CUDA IPC."
        },
    )
    engine: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Further arguments of vllm.LLM, for instance {gpu_memory_utilization: 0.5}; the server takes 0.9 "
            "of a GPU where this does not say otherwise."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "max_history", "longest")

    @property
    def settings(self) -> dict[str, Any]:
        """`engine`, which a recipe gives as a table and the command line as JSON."""
        return as_table("engine", self.engine)
