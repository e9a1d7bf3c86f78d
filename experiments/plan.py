"""What a run needs on GPUs: memory, the launch recipe that fits, time. Computed, not measured."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from catalog.errors import InputError
from catalog.settings import Arguments, at_least
from evaluation.tables import aligned_table
from experiments.memory import (
    GIB,
    RECIPES,
    SHAPES,
    SYNC,
    USABLE,
    Job,
    Shape,
    activations,
    cache,
    memory,
    operations,
    sync,
    traffic,
)

COLUMNS = ("parameters", "gradients", "optimizer", "transient", "layers", "head", "engine", "total")


@dataclass
class PlanArguments(Arguments):
    """What `plan.py` can be told. The names are those of a run's config where it has the setting."""

    model: str | None = field(default=None, metadata={"help": f"Folder, hub name, all, or one of {[*SHAPES]}."})
    backbone: dict[str, Any] | str | None = field(default=None, metadata={"help": "Instead: a new backbone, as JSON."})
    gpus: list[int] = field(default_factory=lambda: [8], metadata={"help": "GPUs; with several numbers a summary."})
    gpu_memory: float = field(default=80.0, metadata={"help": "GiB of a GPU."})
    host_memory: float = field(default=256.0, metadata={"help": "GiB of main memory per GPU, for offload."})
    method: Literal["sft", "gflownet"] = field(default="gflownet", metadata={"help": "SFT trains the target alone."})
    batch: int = field(default=32, metadata={"help": "per_device_train_batch_size: prompts per GPU at once."})
    trajectories: int = field(default=8, metadata={"help": "K per prompt; of sft 1."})
    max_history: int = field(default=20, metadata={"help": "N, items of a prompt."})
    levels: int = field(default=4, metadata={"help": "L, codes of an item."})
    codes: int = field(default=256, metadata={"help": "Codes of a level, of which the head computes logits."})
    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA on all linear maps of the layers; 0 trains all."})
    precision: Literal["bf16", "float32"] = field(default="bf16", metadata={"help": "What is computed in."})
    vllm: Literal["colocate", "server", "none"] = field(default="none", metadata={"help": "vllm_mode, or no vLLM."})
    tensor_parallel_size: int = field(default=1, metadata={"help": "GPUs that share a colocated engine."})
    gpu_memory_utilization: float = field(default=0.3, metadata={"help": "A colocated engine's share of its GPU."})
    vllm_enable_sleep_mode: bool = field(default=False, metadata={"help": "The engine leaves the GPU while it trains."})
    peak_tflops: float = field(default=0.0, metadata={"help": "Of a GPU; 0: of an H100, 989 in bf16, 67 in float32."})
    mfu: float = field(default=0.4, metadata={"help": "Share of the peak that training reaches."})
    node_bandwidth: float = field(default=450.0, metadata={"help": "GB/s that a GPU sends to others, 8 or fewer."})
    link_bandwidth: float = field(default=50.0, metadata={"help": "GB/s that a GPU sends to others, more than 8."})
    json: bool = field(default=False, metadata={"help": "Print JSON instead of tables."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.model is None) == (self.backbone is None):
            raise InputError(
                f"model: name a folder, a hub name or one of {[*SHAPES]}, or give a backbone, not both.", field="model"
            )
        at_least(self, 1, "batch", "trajectories", "max_history", "levels", "codes", "tensor_parallel_size")
        at_least(self, 0, "gpu_memory", "host_memory", "mfu", "node_bandwidth", "link_bandwidth", strictly=True)
        at_least(self, 0, "lora_r", "peak_tflops")
        if not 0 < self.gpu_memory_utilization < 1:
            raise InputError(
                f"gpu_memory_utilization={self.gpu_memory_utilization}: give a share between 0 and 1.",
                field="gpu_memory_utilization",
                value=self.gpu_memory_utilization,
            )
        self._check_engine()

    def _check_engine(self) -> None:
        if self.method == "sft" and self.vllm != "none":
            raise InputError("vllm: sft draws nothing.", remedy="Set method: gflownet, or leave it out.", field="vllm")
        if self.vllm != "colocate" and (self.tensor_parallel_size > 1 or self.vllm_enable_sleep_mode):
            raise InputError(
                "tensor_parallel_size and vllm_enable_sleep_mode are of vllm: colocate.",
                remedy="Leave them out.",
                field="tensor_parallel_size",
            )
        for count in self.gpus:
            if count < 1:
                raise InputError(f"gpus={count}: it must be 1 or more.", field="gpus", value=count)
            if count % self.tensor_parallel_size:
                raise InputError(
                    f"tensor_parallel_size={self.tensor_parallel_size} does not divide gpus={count}.",
                    remedy="Set a divisor.",
                    field="tensor_parallel_size",
                    value=self.tensor_parallel_size,
                )


def shapes(args: PlanArguments) -> dict[str, Shape]:
    """The models that are asked for, by name. Raises InputError or OSError for one that is unknown."""
    if args.model == "all":
        return SHAPES
    if args.model in SHAPES:
        return {args.model: SHAPES[args.model]}
    import torch
    from transformers import AutoConfig

    from policy import auto_class
    from policy.config import backbone_config
    from policy.loading import pretrained_source, reading

    if args.model is None:
        config = backbone_config(args.backbone or {})
    else:
        with reading("model", args.model):
            config = AutoConfig.from_pretrained(**pretrained_source(args.model))
    with torch.device("meta"):
        counted = auto_class(config).from_config(config, trust_remote_code=False).num_parameters()
    heads = config.num_attention_heads
    return {
        args.model or config.model_type: Shape(
            config.hidden_size,
            config.num_hidden_layers,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            config.vocab_size,
            config.tie_word_embeddings,
            getattr(config, "head_dim", None) or 0,
            counted,
        )
    }


def plan(shape: Shape, args: PlanArguments, gpus: int) -> dict[str, Any]:
    """Every recipe's needs in bytes and seconds, and the first that fits in the order of what they communicate."""
    drawn = args.method == "gflownet"
    count = args.trajectories if drawn else 1
    sizes = (args.batch, count, args.max_history, args.levels)
    job = Job(*sizes, gpus, args.precision, args.lora_r, drawn, args.codes)
    if shape.heads % args.tensor_parallel_size:
        raise InputError(
            f"tensor_parallel_size={args.tensor_parallel_size} does not divide the model's {shape.heads} attention "
            "heads.",
            remedy="Set a divisor.",
            field="tensor_parallel_size",
            value=args.tensor_parallel_size,
        )
    names = ["single", "zero3-offload"] if gpus == 1 else [name for name in RECIPES if name != "single"]
    rows = {name: needs(name, shape, job, args) for name in names}
    best = next((name for name in names if rows[name]["fits"] != "no"), None)
    row = rows[best or names[-1]]
    worst = row | (row["checkpointing"] if row["fits"] != "yes" else {})
    slow = best is not None and row["network_seconds"] > row["compute_seconds"]
    at_once = COLUMNS[:-2] if args.vllm_enable_sleep_mode else COLUMNS[:-1]
    largest = max(at_once, key=lambda part: worst[part])
    return {"gpus": gpus, "recipes": rows, "use": best, "limit": "bandwidth" if slow else row["lacks"] or largest}


def needs(name: str, shape: Shape, job: Job, args: PlanArguments) -> dict[str, Any]:
    """One recipe: bytes of a process in parts, whether they fit, seconds and bytes of a step."""
    kept, weights = memory(name, shape, job), shape.parameters * job.size / args.tensor_parallel_size
    engine = args.gpu_memory_utilization * args.gpu_memory * GIB if args.vllm == "colocate" else 0.0
    autocast = name in ("single", "ddp")
    parts = {}
    for checkpointing in (False, True):
        layers, head = activations(shape, job, checkpointing=checkpointing, autocast=autocast)
        training = kept.states + kept.transient + layers + head + engine * (not args.vllm_enable_sleep_mode)
        drawing = kept.parameters + kept.optimizer + engine + (SYNC if args.vllm != "none" else 0)
        parts[checkpointing] = {"layers": layers, "head": head, "total": max(training, drawing)}
    lacks = "engine" if engine and weights + cache(shape, job, args.tensor_parallel_size) > engine else ""
    lacks = lacks or ("host" if kept.host > args.host_memory * GIB else "")
    room = USABLE * args.gpu_memory * GIB
    small, enough = (parts[checkpointing]["total"] <= room for checkpointing in (True, False))
    fits = "no" if lacks or not small else "yes" if enough else "checkpointing"
    chosen = fits != "yes"
    training, drawing = operations(shape, job, checkpointing=chosen)
    handed = shape.parameters * job.size if args.vllm != "none" else 0
    gathered = sync(name, shape, job, engine=args.vllm != "none")
    sent = traffic(name, shape, job)
    peak = 1e12 * (args.peak_tflops or (989 if job.precision == "bf16" else 67))
    bandwidth = 1e9 * (args.node_bandwidth if job.gpus <= 8 else args.link_bandwidth)
    return {
        **kept._asdict(),
        **parts[False],
        "engine": engine,
        "engine_weights": weights if engine else 0,
        "checkpointing": parts[True],
        "fits": fits,
        "lacks": lacks,
        "training_flops": training,
        "drawing_flops": drawing,
        "gradient_traffic": sent,
        "sync_traffic": gathered,
        "handed_to_an_engine": handed,
        "compute_seconds": (training + drawing) / (peak * args.mfu),
        "network_seconds": (sent + gathered + handed * (args.vllm == "server")) / bandwidth,
    }


def advice(found: dict[str, Any]) -> str:
    """The recipe to use, short."""
    if found["use"] is None:
        return "none"
    return found["use"] + ("*" if found["recipes"][found["use"]]["fits"] == "checkpointing" else "")


def describe(name: str, shape: Shape, found: dict[str, Any]) -> str:
    """One model on one number of GPUs."""
    heads = ["GiB per GPU", *COLUMNS, "checkpointed", "host", "fits"]
    lines = [
        [recipe, *(f"{row[part] / GIB:.1f}" for part in COLUMNS), f"{row['checkpointing']['total'] / GIB:.1f}"]
        + [f"{row['host'] / GIB:.1f}", row["fits"] + (f" ({row['lacks']})" if row["lacks"] else "")]
        for recipe, row in found["recipes"].items()
    ]
    text = f"{name}: {shape.parameters:,} parameters, {found['gpus']} GPU(s); computed, not measured\n"
    text += aligned_table(heads, lines)
    if (use := found["use"]) is None:
        return f"{text}\nNothing fits. What is too large: {found['limit']}. Lower batch, set lora_r, or add GPUs."
    row = found["recipes"][use]
    sent = (row["gradient_traffic"] + row["sync_traffic"]) / 1e9
    short = row["fits"] == "checkpointing"
    extra, checkpointing = (
        (" with gradient_checkpointing: true", " --gradient_checkpointing true") if short else ("", "")
    )
    return (
        f"{text}\nUse recipes/accelerate/{use}.yaml{extra}. What limits: {found['limit']}.\n"
        f"A step per GPU: training {row['training_flops'] / 1e12:.1f} and drawing {row['drawing_flops'] / 1e12:.1f} "
        f"TFLOP, {row['compute_seconds']:.2f} s; network {sent:.1f} GB, "
        f"{row['network_seconds']:.2f} s; {row['handed_to_an_engine'] / 1e9:.1f} GB of weights to each engine.\n"
        f"Next: accelerate launch --config_file recipes/accelerate/{use}.yaml -m recipes.train "
        f"--config recipes/ml-100k/{'gflownet' if row['drawing_flops'] else 'sft'}.yaml{checkpointing}"
    )


def plan_page(args: PlanArguments) -> str:
    """What `plan.py` prints: JSON, one model's table, or a summary of several."""
    models = shapes(args)
    found = {name: [plan(shape, args, gpus) for gpus in args.gpus] for name, shape in models.items()}
    if args.json:
        return json.dumps(found)
    if len(models) == len(args.gpus) == 1:
        ((name, shape),) = models.items()
        return describe(name, shape, found[name][0])
    page = aligned_table(["model", *(f"{n} GPU(s)" for n in args.gpus)], [[m, *map(advice, found[m])] for m in found])
    return f"{page}\n* with gradient_checkpointing: true; computed, not measured"
