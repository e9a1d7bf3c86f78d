"""What computes a trained policy that is used: transformers, or another engine by its import path."""

import importlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from catalog import Catalog
from catalog.errors import InputError
from catalog.settings import check_known
from interactions.prompts import PromptBuilder
from policy import auto_class, policy_of
from policy.device import one_device
from policy.loading import reading
from recommenders.policy_folder import PolicyRecord

ENGINES = {"transformers": "", "vllm": "samplers.rollouts.engine_policy:EnginePolicy"}
"""Name -> import path of a class with `from_pretrained(folder, catalog_folder, prompts, dtype=..., settings=...)`.

What it returns has `beam`, `sample` and `log_probs` of `TriePolicy`, and `trie` and `tokens`. vLLM's lies in a package
above this one, so it is named and not imported.
"""
DTYPES = ("float32", "bfloat16", "float16")


def load_policy(
    folder: Path,
    catalog: Catalog,
    record: PolicyRecord,
    source: Catalog | str | Path,
    *,
    device: str | torch.device | None,
    dtype: str,
    engine: str,
    settings: dict[str, Any],
) -> tuple[Any, PromptBuilder]:
    """The policy in a folder, and what builds its prompts. source: where the catalog lies, which vLLM reads by itself.

    Raises InputError for what cannot be read or is unknown.
    """
    check_known(dtype, DTYPES, f"dtype={dtype!r} is unknown.", field="dtype", remedy=f"Choose one of {DTYPES}.")
    with reading("model", str(folder)):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    catalog.check_trained(config)
    prompts = PromptBuilder(catalog, tokenizer, record.max_history, record.prompt_template)
    if engine != "transformers":
        if isinstance(source, Catalog):
            raise InputError(
                f"engine={engine} reads the catalog by itself.", remedy="Give its folder as catalog.", field="catalog"
            )
        kind = _engine(engine)
        return kind.from_pretrained(folder, source, prompts, dtype=dtype, settings=settings), prompts
    if settings:
        raise InputError(
            f"engine_settings={settings}: transformers has none.", remedy="Leave them out.", field="engine_settings"
        )
    place = one_device() if device is None else _device(device)
    if getattr(config, "activation_function", None) == "gelu_new":
        config.activation_function = "gelu_pytorch_tanh"  # the same function, in one kernel
    with reading("model", str(folder)):
        model = auto_class(config).from_pretrained(
            folder, config=config, dtype=getattr(torch, dtype), trust_remote_code=False
        )
        model = model.to(place).eval()  # type: ignore[arg-type]  # transformers wraps nn.Module.to
    return policy_of(model, catalog.trie.to(place), prompts.tokens.to(place)), prompts


def _device(name: str | torch.device) -> torch.device:
    """A device that computes. Raises InputError for a name that is none and for a device that is not there."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch without CUDA
        raise InputError(
            f"device={name} cannot be used here ({str(error).splitlines()[0]}).",
            remedy="Give cpu, or cuda:N where there is that GPU.",
            field="device",
            value=str(name),
        ) from error


def _engine(name: str) -> Any:
    """The class of an engine. Raises InputError for a name that is unknown and for a path that leads nowhere."""
    path = ENGINES.get(name, name)
    if ":" not in path:
        check_known(
            name, ENGINES, f"engine={name!r} is unknown.", field="engine", remedy=f"Choose one of {list(ENGINES)}."
        )
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"engine={name} cannot be imported ({error}).", remedy='Give "module:Class".', field="engine", value=name
        ) from error
