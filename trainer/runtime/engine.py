"""The rollout engine that a run's config asks for."""

import os
import secrets
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from catalog import Catalog
from catalog.errors import InputError
from interactions.prompts import PromptBuilder
from samplers import RolloutEngine
from samplers.rollouts.client import ServerEngine, WeightSender
from samplers.rollouts.http_weights import HTTPWeights
from samplers.rollouts.servers import Servers, is_local_url
from samplers.rollouts.vllm_weights import VLLMWeights
from serving.listening import KEY
from trainer.rollout_config import RolloutConfig


def make_engine(
    args: RolloutConfig,
    accelerator: Accelerator,
    model: PreTrainedModel,
    prompts: PromptBuilder,
    tokenizer: PreTrainedTokenizerBase,
    catalog: Catalog,
) -> RolloutEngine | None:
    """vLLM in this process, the client of the servers, or None for transformers.

    Raises InputError or RunError where vLLM or a server is missing or does not fit this run.
    """
    if not args.use_vllm:
        return None
    if model.config.is_encoder_decoder:
        raise InputError(
            f"use_vllm: vLLM draws from decoder-only backbones and {model.config.model_type} is an encoder-decoder.",
            remedy="Leave use_vllm out, or choose another backbone.",
            field="use_vllm",
        )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError(
            "use_vllm: the weights of FSDP 1 cannot be handed over.", remedy="Set fsdp_version: 2.", field="use_vllm"
        )
    if args.vllm_mode == "server":
        return _servers(args, accelerator, model, prompts, catalog)
    from samplers.rollouts.skeleton import cached_skeleton
    from samplers.rollouts.vllm_engine import VLLMEngine

    assert isinstance(args.vllm_engine, dict)  # by RolloutConfig
    settings: dict[str, Any] = dict(args.vllm_engine)
    with accelerator.local_main_process_first():  # the others of a node then find it written
        folder, catalog = cached_skeleton(accelerator.unwrap_model(model), tokenizer, catalog)
    size = settings.get("tensor_parallel_size", 1)
    if accelerator.num_processes % size:
        raise InputError(
            f"vllm_engine: tensor_parallel_size={size} processes are to share an engine, and training has "
            f"{accelerator.num_processes}.",
            remedy=f"Start a multiple of {size}.",
            field="vllm_engine",
        )
    if size > 1 and args.rollout_staleness:
        raise InputError(
            "rollout_staleness: an engine that processes share draws while none trains.",
            remedy="Set one of the two.",
            field="rollout_staleness",
        )
    half = args.bf16 or next(model.parameters()).dtype == torch.bfloat16
    engine = VLLMEngine(
        folder,
        catalog,
        longest=prompts.longest,
        dtype=settings.pop("dtype", "bfloat16" if half else "float32"),
        weights=False,
        sleep=args.vllm_enable_sleep_mode,
        settings=settings,
    )
    set_seed(args.seed)  # the engine set its own
    return engine


def _servers(
    args: RolloutConfig, accelerator: Accelerator, model: PreTrainedModel, prompts: PromptBuilder, catalog: Catalog
) -> RolloutEngine:
    if not (key := os.environ.get(KEY, "").strip()):
        raise InputError(
            f"vllm_mode=server: the environment variable {KEY} is not set.",
            remedy="Give it the servers' key.",
            field="vllm_mode",
        )
    if args.weight_transfer != "http":
        check_transfer(args, accelerator)
    run = broadcast_object_list([secrets.token_hex(8)])[0]  # two runs on one server must notice each other
    servers = Servers(
        args.vllm_server_base_url,
        key=key,
        catalog_fingerprint=catalog.fingerprint,
        vocabulary=model.config.vocab_size,
        longest=prompts.longest,
        weight_transfer=args.weight_transfer,
        timeout=args.rollout_timeout,
        wait=args.vllm_server_timeout,
    )
    sender = _sender(args.weight_transfer, servers) if accelerator.is_main_process else None
    return ServerEngine(servers, run=run, levels=prompts.trie.levels, sender=sender)


def _sender(weight_transfer: str, servers: Servers) -> WeightSender:
    if weight_transfer == "http":
        return HTTPWeights(servers)
    from samplers.rollouts.vllm_groups import JOINS

    return VLLMWeights(servers, JOINS[weight_transfer])


def check_transfer(args: RolloutConfig, accelerator: Accelerator) -> None:
    """Raise InputError where vLLM's weight transfer cannot serve this run, SetupError where vLLM is missing."""
    from samplers.rollouts.vllm_engine import check_vllm

    wrong = ""
    if accelerator.device.type != "cuda":
        wrong = f"it sends from a GPU, and this run's weights are on {accelerator.device.type}"
    elif args.weight_transfer == "ipc" and accelerator.num_processes > 1:
        wrong = f"it serves a run of one process on the server's GPU, and this one has {accelerator.num_processes}"
    elif args.weight_transfer == "ipc" and not all(map(is_local_url, args.vllm_server_base_url)):
        wrong = f"the server must be on this machine, and the urls are {', '.join(args.vllm_server_base_url)}"
    if wrong:
        raise InputError(
            f"weight_transfer={args.weight_transfer}: {wrong}.",
            remedy="Set weight_transfer: http, which serves every run.",
            field="weight_transfer",
            value=args.weight_transfer,
        )
    check_vllm()
