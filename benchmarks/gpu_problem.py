"""What the checks of benchmarks/gpu.py share: rows, sizes, a backbone with prompts, engine beside trainer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import device, make_catalog, make_prompts, on_device
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from catalog import Catalog, word_tokenizer
from experiments.memory import SHAPES, Shape
from interactions import PromptBatch, PromptBuilder
from policy import Agreement, CausalPolicy, inference
from policy.agreement import FLOAT32_LARGEST, HALF_CORRELATION, HALF_MEAN
from samplers import RolloutEngine, RolloutSampler
from samplers.rollouts.skeleton import save_skeleton
from samplers.rollouts.vllm_engine import VLLMEngine


class Row(NamedTuple):
    """A figure. bound: what it should be, in words; ok: whether it is, None where nothing is expected of it."""

    what: str
    value: float | str
    unit: str = ""
    bound: str = ""
    ok: bool | None = None


def at_most(what: str, value: float, limit: float, unit: str = "") -> Row:
    return Row(what, value, unit, f"at most {limit:g}", bool(value <= limit))


def at_least(what: str, value: float, limit: float, unit: str = "") -> Row:
    return Row(what, value, unit, f"at least {limit:g}", bool(value >= limit))


@dataclass(frozen=True)
class Sizes:
    """How large a check is. clients, grpo, rollouts: of the benchmarks of these names. matmul: rows of
    a square one. output: the folder for logs and profiles."""

    backbone: Shape
    items: int
    width: int
    history: int
    prompts: int
    trajectories: int
    steps: int
    matmul: int
    clients: dict[str, int]
    grpo: dict[str, int]
    rollouts: dict[str, int]
    output: Path = Path()


ON_GPU = Sizes(
    backbone=SHAPES["0.5b"],
    items=12_000,
    width=256,
    history=20,
    prompts=32,
    trajectories=8,
    steps=8,
    matmul=8192,
    clients=dict(clients=4, hidden=512, layers=8),
    grpo=dict(hidden=512, layers=8),
    rollouts=dict(hidden=512, layers=8),
)
DRY = Sizes(
    backbone=Shape(64, 2, 2, 1, 128, 2048, tied=True),
    items=500,
    width=16,
    history=20,
    prompts=4,
    trajectories=4,
    steps=4,
    matmul=512,
    clients=dict(clients=4, repeats=1, items=500),
    grpo=dict(items=500, width=16, prompts=4, samples=4, history=8, hidden=32, layers=2, repeats=2),
    rollouts=dict(items=500, prompts=8, samples=4, layers=2, repeats=1),
)
LEVELS = 4


@dataclass(frozen=True)
class Problem:
    """A new backbone and prompts for it, all on the device."""

    catalog: Catalog
    tokenizer: PreTrainedTokenizerBase
    policy: CausalPolicy
    prompts: PromptBatch

    @property
    def model(self) -> Any:
        return self.policy.model

    @property
    def longest(self) -> int:
        return self.prompts.input_ids.shape[1]


def problem(sizes: Sizes) -> Problem:
    """Float32 weights that are wide enough for draws that differ; embeddings with the whole vocabulary of the shape.

    A Qwen3, whatever Qwen the shape is of: transformers reads a tokenizer of whole words from a folder of Qwen2 as BPE.
    """
    catalog, shape = make_catalog(sizes.items, LEVELS, sizes.width), sizes.backbone
    tokenizer = word_tokenizer(catalog.trie.sizes)
    torch.manual_seed(0)
    with device():
        model = Qwen3ForCausalLM(
            Qwen3Config(
                hidden_size=shape.hidden,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads,
                head_dim=shape.query // shape.heads,
                intermediate_size=shape.intermediate,
                vocab_size=shape.vocabulary,
                tie_word_embeddings=shape.tied,
                initializer_range=0.05,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=None,
                pad_token_id=tokenizer.pad_token_id,
                catalog_fingerprint=catalog.fingerprint,
            )
        ).eval()
    builder = PromptBuilder(catalog, tokenizer, sizes.history)
    policy = on_device(CausalPolicy(model, catalog.trie, builder.tokens))
    prompts = make_prompts(builder, catalog, sizes.prompts, sizes.history).to(device())
    return Problem(catalog, tokenizer, policy, prompts)


def on_gpu() -> bool:
    return device().type == "cuda"


def move(model: torch.nn.Module, seed: int) -> None:
    """Change every weight."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


def start(given: Problem, folder: str, dtype: str, **settings: Any) -> VLLMEngine:
    paths = save_skeleton(Path(folder), given.model, given.tokenizer, given.catalog)
    return VLLMEngine(*paths, longest=given.longest, dtype=dtype, weights=False, **settings)


def compare(given: Problem, engine: RolloutEngine) -> Agreement:
    """The engine's log-probabilities of its own draws beside the trainer's, computed in the engine's dtype."""
    half = engine.dtype == torch.bfloat16
    few = given.prompts.rows(0, 8)
    drawn = RolloutSampler(engine, given.policy).sample(few, 8, seed=1)
    with inference(given.model), torch.autocast(device().type, torch.bfloat16, enabled=half):
        log_pf = given.policy.log_probs(few, drawn.items).log_pf
    return Agreement.of(drawn.log_pf, log_pf)


def gap(what: str, found: Agreement, dtype: torch.dtype) -> list[Row]:
    """What a run's first step decides by, see `Agreement`."""
    if dtype == torch.float32:
        return [at_most(f"{what}: largest difference of a step's log P_F", found.largest, FLOAT32_LARGEST)]
    return [
        at_most(f"{what}: mean difference of a step's log P_F", found.mean, HALF_MEAN),
        at_least(f"{what}: correlation of paths", found.correlation, HALF_CORRELATION),
        Row(f"{what}: largest difference", found.largest),
    ]
