"""The tables that describe a new backbone and its adapters, checked against what transformers and peft know."""

from typing import TYPE_CHECKING, Any, get_type_hints

from huggingface_hub.errors import StrictDataclassError

from catalog.errors import InputError
from catalog.extras import extra
from catalog.settings import as_table, check_known, check_table

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedConfig


def backbone_config(settings: dict[str, Any] | str, **more: Any) -> "PreTrainedConfig":
    """The transformers config of a recipe's `backbone`, {model_type: gpt2, n_embd: 64, ...}, and of `more`.

    Raises InputError for a kind of backbone or a setting that transformers does not know, or a value it refuses.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    table = as_table("backbone", settings)
    if "model_type" not in table:
        raise InputError(
            "backbone: model_type is missing.", remedy="Add for instance model_type: qwen3.", field="backbone"
        )
    kind = str(table.pop("model_type"))
    known = [*CONFIG_MAPPING.keys()]
    check_known(
        kind,
        known,
        f"backbone: transformers has no model_type {kind!r}.",
        field="backbone",
        remedy="Use qwen3 or gpt2.",
    )
    config = CONFIG_MAPPING[kind]
    names = {*config().to_dict(), *config.__dataclass_fields__, *config.attribute_map} - {"transformers_version"}
    names |= {"attn_implementation"}  # a setting that no config lists
    check_table("backbone", table, dict.fromkeys(names, Any), f"a {kind}")
    try:
        return AutoConfig.for_model(kind, **more | table)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise InputError(
            f"backbone: transformers refuses it: {' '.join(str(error).split())}.",
            remedy="Correct the value.",
            field="backbone",
        ) from error


def load_lora(settings: dict[str, Any] | str | None) -> "LoraConfig | None":
    """The peft.LoraConfig of a recipe's settings, None without.

    Raises InputError for what peft does not know, SetupError without peft.
    """
    if not (table := as_table("lora", settings)):
        return None
    with extra("peft", "lora", field="lora"):
        from peft import LoraConfig

    kinds = get_type_hints(LoraConfig)
    fixed = {"task_type", "peft_type", "inference_mode", "auto_mapping"}  # the trainer sets them
    known = {name: kinds[name] for name in LoraConfig.__dataclass_fields__ if name not in fixed}
    check_table("lora", table, known, "peft.LoraConfig")
    try:
        config = LoraConfig(task_type="CAUSAL_LM", **table)
        if config.r < 1 or not 0 <= config.lora_dropout < 1:
            raise ValueError("r must be at least 1, and lora_dropout at least 0 and below 1")
        return config
    except (ValueError, TypeError) as error:
        raise InputError(f"lora: peft refuses it: {error}.", remedy="Correct the value.", field="lora") from error
