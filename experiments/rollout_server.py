"""A rollout server from a run's folder: the key, the socket, and the app around an engine."""

import math
import os
import socket
from pathlib import Path
from typing import Any

from catalog.errors import InputError, SetupError
from experiments.arguments import RolloutServerArguments


def read_key() -> str:
    """The key that requests must carry; it comes from the environment, since everyone can read command lines.

    Raises SetupError for one that is too short.
    """
    from samplers.rollouts.client import KEY

    key = os.environ.get(KEY, "").strip()
    if len(key) < 16 or not key.isascii() or not key.isprintable():
        raise SetupError(
            f"{KEY} must hold at least 16 ASCII characters and has {len(key)}.",
            remedy="Make a key with python -c 'import secrets; print(secrets.token_hex(16))' and export it here and "
            "where training runs.",
        )
    return key


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the port and does not listen yet, so that clients are refused until the engine is there.

    Raises SetupError for a port that is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a killed server linger
        listener.bind(address)
    except OSError as error:
        raise SetupError(
            f"{host}:{port} cannot be served: {error.strerror}.",
            remedy="Stop what runs there, or give another --host or --port.",
        ) from error
    return listener


def build(args: RolloutServerArguments, key: str) -> tuple[Any, str]:
    """The app around a started engine, and what it serves in words.

    Raises InputError, SetupError or RunError where the checkpoint, the data and vLLM do not fit together.
    """
    from transformers import AutoConfig, AutoTokenizer

    from catalog import Catalog, node_tokens
    from policy.checkpoints import check_finished
    from policy.loading import reading
    from samplers.rollouts.client import BUCKET_BYTES
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
    engine = VLLMEngine(args.model, args.data, longest=longest, dtype=args.dtype, settings=args.settings)
    app = make_app(
        engine,
        key=key,
        catalog=catalog,
        vocabulary=config.vocab_size,
        longest=longest,
        part_bytes=max(BUCKET_BYTES, largest_tensor(Path(args.model))) + 2**20,  # and the header of safetensors
    )
    return app, f"{len(catalog)} items, vocabulary {config.vocab_size}, prompts of up to {longest} tokens"


def largest_tensor(folder: Path) -> int:
    """Bytes of the largest weight in a checkpoint, in float32."""
    from safetensors import safe_open

    largest = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            largest = max(largest, *(4 * math.prod(file.get_slice(name).get_shape()) for name in file.keys()))
    return largest
