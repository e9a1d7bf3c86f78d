"""A rollout server from a run's folder: the app around an engine."""

from pathlib import Path
from typing import Any

from catalog.errors import InputError
from experiments.server_arguments import RolloutServerArguments


def build(args: RolloutServerArguments, key: str) -> tuple[Any, str]:
    """The app around a started engine, and what it serves in words.

    Raises InputError or RunError where the checkpoint, the data and vLLM do not fit together.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from catalog import Catalog, node_tokens
    from policy.folders import check_finished
    from policy.loading import reading
    from samplers.rollouts.server import make_app
    from samplers.rollouts.vllm_engine import VLLMEngine

    if not any(Path(args.model).glob("*.safetensors")):
        raise InputError(
            f"{args.model} holds no *.safetensors.", remedy="Give the folder of a finished run as --model."
        )
    check_finished(args.model)
    catalog = Catalog.load(args.data)
    with reading("model", args.model):
        config = AutoConfig.from_pretrained(args.model, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    catalog.check_trained(config)
    node_tokens(tokenizer, catalog.trie)  # raises where a code is no token
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"The tokenizer in {args.model} has {len(tokenizer)} tokens and the model {config.vocab_size}.",
            remedy="Give a folder in which both were saved together.",
        )
    longest = args.longest or 1 + args.max_history * catalog.trie.levels
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest + catalog.trie.levels > positions:
        raise InputError(
            f"Prompts of {longest} tokens and {catalog.trie.levels} codes do not fit the {positions} positions of "
            f"{args.model}.",
            remedy="Lower --max_history, or --longest where it is given.",
        )
    dtype, settings = engine_settings(args, gpu=torch.cuda.is_available())
    engine = VLLMEngine(
        args.model,
        args.data,
        longest=longest,
        dtype=dtype,
        weight_transfer=None if args.weight_transfer == "http" else args.weight_transfer,
        settings=settings,
    )
    app = make_app(
        engine,
        key=key,
        catalog=catalog,
        vocabulary=config.vocab_size,
        longest=longest,
        transfer=engine.transfer,
    )
    return app, f"{len(catalog)} items, vocabulary {config.vocab_size}, prompts of up to {longest} tokens"


def engine_settings(args: RolloutServerArguments, *, gpu: bool) -> tuple[str, dict[str, Any]]:
    """dtype and further arguments of the engine of a server, which has its GPU to itself."""
    by_default: dict[str, Any] = {"gpu_memory_utilization": 0.9} if gpu else {}
    dtype = ("bfloat16" if gpu else "float32") if args.dtype == "auto" else args.dtype
    return dtype, by_default | args.settings
