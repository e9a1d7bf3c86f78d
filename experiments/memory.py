"""What a process of each launch recipe needs: bytes of GPU memory, floating-point operations, bytes over the network.

Pure arithmetic. ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054, and DeepSpeed's source where it differs; activations:
Korthikanti et al. 2022, arXiv 2205.05198, for SDPA with an additive 4-D mask, which keeps no T x T scores but repeats
grouped keys and values for every head. docs/scaling.md compares with measurements.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

GIB = 2**30
USABLE = 0.9
"""Share of a GPU that tensors may fill, an assumption; the rest is the context's, NCCL's and lost to fragmentation."""
LIVE = 10**9
"""Parameters that ZeRO-3 may hold gathered at once: DeepSpeed's stage3_max_live_parameters, which our recipes keep."""
GATHER = 5 * 10**8
"""Parameters that ZeRO-1 and 2 gather in one go after a step: DeepSpeed's allgather_bucket_size."""
PREFETCH = 5 * 10**7
"""Parameters that ZeRO-3 gathers in one go, twice in memory meanwhile: DeepSpeed's stage3_prefetch_bucket_size."""
SUB_GROUP = 10**9
"""Parameters that ZeRO-3's optimizer updates at once: DeepSpeed's sub_group_size."""
SYNC = 256 * 2**20
"""Bytes: bucket_bytes of samplers.rollouts.weights.policy_weights."""


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped attention and a gated MLP. counted: its parameters, where it is of another kind."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    head_size: int = 0
    counted: int = 0

    @property
    def query(self) -> int:
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def key(self) -> int:
        return self.query // self.heads * self.kv_heads

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of a layer's linear maps."""
        h, q, k, f = self.hidden, self.query, self.key, self.intermediate
        return [(h, q), (h, k), (h, k), (q, h), (h, f), (h, f), (f, h)]

    @property
    def layer(self) -> int:
        """Parameters of a layer, with Qwen2's biases of queries, keys and values."""
        return sum(a * b for a, b in self.linears) + self.query + 2 * self.key + 2 * self.hidden

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return self.counted or self.layers * self.layer + self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def body(self) -> int:
        """Parameters that every token is multiplied with: all but embeddings and head."""
        return self.parameters - self.embedding * (1 if self.tied else 2)

    def adapters(self, r: int) -> int:
        """Parameters of LoRA of rank r on every linear map of the layers."""
        return self.layers * sum(r * (a + b) for a, b in self.linears)


SHAPES = {  # config.json of Qwen/Qwen2.5-0.5B, -1.5B, -7B and -72B
    "0.5b": Shape(896, 24, 14, 2, 4864, 151_936, tied=True),
    "1.5b": Shape(1536, 28, 12, 2, 8960, 151_936, tied=True),
    "7b": Shape(3584, 28, 28, 4, 18_944, 152_064, tied=False),
    "70b": Shape(8192, 80, 64, 8, 29_568, 152_064, tied=False),
}


@dataclass(frozen=True)
class Recipe:
    """What is shared out among the processes, and whether DeepSpeed trains, whose weights in bf16 are bfloat16 too."""

    optimizer: bool = False
    gradients: bool = False
    parameters: bool = False
    deepspeed: bool = False
    offload: bool = False


RECIPES = {  # in the order of what they communicate
    "single": Recipe(),
    "ddp": Recipe(),
    "zero1": Recipe(optimizer=True, deepspeed=True),
    "zero2": Recipe(optimizer=True, gradients=True, deepspeed=True),
    "zero3": Recipe(optimizer=True, gradients=True, parameters=True, deepspeed=True),
    "fsdp2": Recipe(optimizer=True, gradients=True, parameters=True),
    "zero3-offload": Recipe(optimizer=True, gradients=True, parameters=True, deepspeed=True, offload=True),
}


@dataclass(frozen=True)
class Job:
    """One step: batch prompts per process at once, K trajectories each, histories of N items of L codes.

    codes: how many a level has.
    """

    batch: int
    trajectories: int
    max_history: int
    levels: int
    gpus: int = 1
    precision: Literal["bf16", "float32"] = "bf16"
    lora_r: int = 0
    draws: bool = True
    codes: int = 256
    bucket: int = 5 * 10**8  # elements: DeepSpeed's reduce_bucket_size, which our recipes keep

    @property
    def size(self) -> int:
        """Bytes of a number that is computed with."""
        return 2 if self.precision == "bf16" else 4

    @property
    def row(self) -> int:
        """Tokens per prompt of the shared-prefix forward, P + K (L - 1), each with the logits of a level's codes."""
        return 1 + self.max_history * self.levels + self.trajectories * (self.levels - 1)


class Memory(NamedTuple):
    """Bytes on the GPU of one process at its worst moment, in parts; `host` is main memory."""

    parameters: float
    gradients: float
    optimizer: float
    transient: float
    host: float

    @property
    def states(self) -> float:
        return self.parameters + self.gradients + self.optimizer


def trained(shape: Shape, job: Job) -> int:
    return shape.adapters(job.lora_r) if job.lora_r else shape.parameters


def memory(name: str, shape: Shape, job: Job) -> Memory:
    """What the recipe keeps and gathers. Adam has two float32 moments; under DeepSpeed a float32 copy beside them.

    DeepSpeed keeps that copy in float32 training too. Elsewhere the weights are float32 and are cast when used.
    """
    recipe, all_, some, n = RECIPES[name], shape.parameters, trained(shape, job), job.gpus
    stored = job.size if recipe.deepspeed else 4
    parameters = stored * all_ / (n if recipe.parameters else 1)
    gradients = stored * _gradient_elements(name, shape, job)
    optimizer = (12 if recipe.deepspeed else 8) * some / (n if recipe.optimizer else 1)
    transient = _transient(name, shape, job)
    if not recipe.offload:
        return Memory(parameters, gradients, optimizer, transient, 0)
    # gradients lie in main memory twice: as they are reduced and in float32 for the optimizer
    return Memory(0, 0, 0, transient, parameters + gradients + optimizer + 4 * some / n)


def _gradient_elements(name: str, shape: Shape, job: Job) -> float:
    """DDP keeps its buckets beside the gradients; ZeRO-2 keeps every gradient whole of which it owns a part."""
    some = trained(shape, job)
    if name == "zero2":
        inner, outer = shape.hidden, max(shape.intermediate, shape.query)
        cut = job.lora_r * outer if job.lora_r else inner * outer
        return min(some, max(some / job.gpus + cut, 0 if job.lora_r else shape.embedding))
    return {"single": some, "ddp": 2 * some, "zero1": some}.get(name, some / job.gpus)


def _transient(name: str, shape: Shape, job: Job) -> float:
    """What is there for a while beside activations: gathered weights, reduction buckets, flat gradients of a step."""
    recipe, size, share = RECIPES[name], job.size, trained(shape, job) / job.gpus
    if name in ("single", "ddp"):
        return 0
    if name == "fsdp2":  # this layer and the next gathered, embeddings all along, their gradients before the reduction
        root = shape.embedding * (1 if shape.tied else 2)
        return size * (2 * shape.layer + root + (0 if job.lora_r else shape.layer + root))
    bucket, flat = size * job.bucket, size + (4 if size == 2 else 0)  # flat: bytes, flattened and then in float32
    if not recipe.parameters:
        kept = size * (_gradient_elements(name, shape, job) if name == "zero1" else share)
        # after the step the new weights arrive in a flat buffer beside their places, when no gradients are left
        return max(bucket, (size + flat) * share - kept, size * min(trained(shape, job), GATHER) - kept)
    copied = min(shape.parameters, PREFETCH) if job.gpus > 1 else 0
    live = size * (min(shape.parameters, LIVE) + copied)
    return bucket + max(live, 0 if recipe.offload else flat * min(share, SUB_GROUP))


def activations(shape: Shape, job: Job, *, checkpointing: bool, autocast: bool) -> tuple[float, float]:
    """Bytes of (layers, head) at the worst moment of one forward and backward.

    Per token and layer, in the precision: each of two norms its normalized input and its output, and its input in
    float32; queries, repeated keys and values, attention's output; four of the MLP's width. Under autocast the residual
    is float32, and each linear map has its own cast of its input and its weight.

    The head multiplies its rows of a level's codes alone, in float32 (`policy.head`). Each of a token's codes has a
    log-probability, its place among the logits and whether it is a child, while backward begins; beside them lie
    gradients of logits, summed from slices. The gradient of the head's weight has all its rows. A tied one waits while
    the layers go backward for that of the input embeddings, with which it is then summed.
    """
    size, h, tokens = job.size, shape.hidden, job.batch * job.row
    autocast = autocast and size == 2
    norms = 26 * h if autocast else 2 * h * (4 + 2 * size)
    layer = tokens * (norms + 4 * size * (shape.query + shape.intermediate) + 4 * shape.heads)
    final = tokens * h * (4 + 2 * size) + job.batch * job.row**2 * size  # the last norm, and the mask
    working = tokens * size * 2 * (shape.intermediate + h)  # gradients inside a layer's backward
    logits = tokens * (job.codes * (4 + 8 + 1 + 3 * 4) + (4 * h if size == 2 else 0))
    gradient = (4 if autocast else size) * shape.embedding
    head = max(logits, gradient + working if shape.tied else max(gradient, working))
    last = (2 if shape.tied else 1) * gradient
    if not checkpointing:
        layers = shape.layers * layer + final + (2 * shape.body if autocast else 0)
        return layers, max(head, last - layers)
    layers = shape.layers * tokens * h * (4 if autocast else size) + (2 * shape.layer if autocast else 0)
    layers += layer + working
    waiting = gradient if shape.tied else max(gradient - layer - working, 0)
    return layers, max(final + logits - layer - working, waiting, last - layers)


def cache(shape: Shape, job: Job, tensor_parallel_size: int) -> float:
    """Bytes of an engine's KV cache per process for one prompt and its trajectories, the prompt being kept once."""
    tokens = 1 + job.max_history * job.levels + job.trajectories * job.levels
    return 2 * shape.layers * shape.key * job.size * tokens / tensor_parallel_size


def operations(shape: Shape, job: Job, *, checkpointing: bool) -> tuple[float, float]:
    """Floating-point operations of a process in one step: (training, drawing), without attention's own, which are few.

    6 per parameter and token, of which LoRA saves the 2 for the gradients of weights; 2 more for computing twice. A
    loss multiplies a level's rows of the head, a draw all of them at each token that a code is drawn after.
    """
    tokens = job.batch * job.row
    per_parameter = (4 if job.lora_r else 6) + (2 if checkpointing else 0)
    drawn_after = job.batch * (1 + job.trajectories * (job.levels - 1))
    drawing = 2 * (shape.body * tokens + shape.embedding * drawn_after)
    return per_parameter * tokens * (shape.body + job.codes * shape.hidden), drawing if job.draws else 0


def traffic(name: str, shape: Shape, job: Job) -> float:
    """Bytes that a process sends in one step for gradients and gathered weights, by rings.

    A ring sends (n - 1) / n of a vector to reduce and scatter it, as much to gather it (1910.02054, section 7). ZeRO-3
    gathers the weights for forward and backward; checkpointing gathers none beyond, its second forward is in backward.
    """
    recipe, some, ring = RECIPES[name], trained(shape, job), (job.gpus - 1) / job.gpus
    reduced = some * (job.size if recipe.deepspeed or name == "fsdp2" else 4)
    gathered = 2 * shape.parameters * job.size if recipe.parameters else reduced
    return ring * (reduced + gathered)


def sync(name: str, shape: Shape, job: Job, *, engine: bool) -> float:
    """Bytes that a process sends for drawing, where weights are shared out: all gathered once for an engine, which
    then reads them, or for each of the L forwards of the sampler on transformers."""
    times = 0 if not job.draws or not RECIPES[name].parameters else 1 if engine else job.levels
    return times * (job.gpus - 1) / job.gpus * shape.parameters * job.size
