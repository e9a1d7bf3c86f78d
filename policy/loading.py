"""A backbone and its tokenizer: new, or of a checkpoint, to which the catalog's codes are added."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from catalog import Catalog, extend_tokenizer, word_tokenizer
from catalog.errors import GFlowGRError, InputError
from catalog.extras import extra
from policy.backbone import auto_class
from policy.config import backbone_config
from policy.folders import check_finished

logger = logging.getLogger(__name__)


def load_backbone(
    catalog: Catalog,
    model: str | Path | None = None,
    backbone: dict[str, Any] | str | None = None,
    seed: int = 42,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint, its vocabulary extended by the catalog's codes where they are missing; or a new backbone.

    Args:
        catalog: whose codes the vocabulary is to hold.
        model: a folder, a hub name, or a .gguf file in either.
        backbone: without `model`, the config of a new one, {model_type: gpt2, n_embd: 64, ...}, or JSON of it.
        seed: of new weights. Every process must give the same, see `_extend`.

    Returns:
        The model in float32, on the CPU, and its tokenizer.

    Raises:
        InputError: neither is given, transformers cannot load or make it, the folder holds no whole checkpoint, or the
            model was trained for another catalog.
    """
    if model is not None:
        model = str(model)
        check_finished(model)
        source = pretrained_source(model)
        # packed weights, which transformers keeps where it has a kernel for them, can be neither trained nor saved
        unpacked = GgufConfig(dequantize=True) if "gguf_file" in source else None
        with reading("model", model):
            tokenizer = with_start_and_padding(AutoTokenizer.from_pretrained(**source), model)
            kind = auto_class(AutoConfig.from_pretrained(**source))
            loaded = kind.from_pretrained(**source, dtype=torch.float32, quantization_config=unpacked)
        catalog.check_trained(loaded.config)
        if added := extend_tokenizer(tokenizer, catalog.trie.sizes):
            logger.info("%d code tokens added to the vocabulary of %s", added, model)
            _extend(loaded, len(tokenizer), added, seed)
        return loaded, tokenizer
    if not backbone:
        raise InputError(
            "Neither model nor backbone is given.",
            remedy="Name a checkpoint, or describe a new backbone.",
            field="model",
        )
    tokenizer = word_tokenizer(catalog.trie.sizes)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,  # of an encoder-decoder
    }
    config = backbone_config(backbone, vocab_size=len(tokenizer), **special)
    torch.manual_seed(seed)
    with zero3_init_disabled(), reading("backbone", config.model_type):
        return auto_class(config).from_config(config, trust_remote_code=False), tokenizer


@contextmanager
def reading(field: str, name: str) -> Iterator[None]:
    """Turn an error of transformers about the checkpoint or backbone `name` into an InputError of `field`."""
    try:
        yield
    except GFlowGRError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{field}={name} cannot be loaded: {' '.join(str(error).split()).rstrip('.')}.",
            remedy="Name a folder or a hub name that transformers loads without code of its own.",
            field=field,
            value=name,
        ) from error


def pretrained_source(model: str) -> dict[str, Any]:
    """The arguments of `from_pretrained` for `model`. Raises SetupError where GGUF cannot be read."""
    if not model.endswith(".gguf"):
        return {"pretrained_model_name_or_path": model, "trust_remote_code": False}
    with extra("gguf", f"model={model}", field="model"):
        import gguf  # noqa: F401  # transformers reads with it
    path = Path(model)
    return {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
        "trust_remote_code": False,
    }


def with_start_and_padding(tokenizer: PreTrainedTokenizerBase, model: str) -> PreTrainedTokenizerBase:
    """Let the end-of-text token serve where a pretrained tokenizer has none to start or to pad with."""
    for name in ("bos_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            logger.info("%s has no %s: its eos_token %s serves as one", model, name, tokenizer.eos_token)
            setattr(tokenizer, name, tokenizer.eos_token)
    return tokenizer


def _extend(model: PreTrainedModel, tokens: int, added: int, seed: int) -> None:
    """Resize the embeddings, input and output, to `tokens`; the last `added` rows begin at the mean of the others.

    Many checkpoints have more rows than their tokenizer has tokens. These spare rows were never trained. They are cut
    off first, so that no code begins at one of them and the mean is that of trained rows.
    """
    torch.manual_seed(seed)  # transformers draws the new rows, very close to the mean; processes must draw the same
    model.resize_token_embeddings(tokens - added)
    model.resize_token_embeddings(tokens)


@contextmanager
def zero3_init_disabled() -> Iterator[None]:
    """Every process makes the whole model inside, also under ZeRO-3, which shards it when training begins.

    transformers would draw the weights of a new model shard by shard, and one seed would then give other weights.
    """
    from transformers.integrations import deepspeed

    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config
