"""What a run is made of: its data, where it starts, and the settings that decide its weights."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments

from catalog import Catalog
from catalog.files import MARKER, read_json
from interactions.prompts import ROW_NUMBER
from interactions.provenance import COLUMNS, Provenance, rows_digest
from recommenders import made_of

FREE: dict[str, tuple[str, ...]] = {
    "where things are written and what is told of them": (
        *("output_dir", "resume_from_checkpoint", "run_name", "project", "report_to", "disable_tqdm", "debug"),
        *("logging_first_step", "logging_nan_inf_filter", "logging_steps", "logging_strategy", "log_level"),
        *("log_level_replica", "log_on_each_node", "log_trajectories_steps", "skip_memory_metrics"),
        *("trackio_bucket_id", "trackio_space_id", "trackio_static_space_id", "include_num_input_tokens_seen"),
        *("push_to_hub", "hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy"),
        *("hub_token", "do_train", "do_eval", "do_predict"),
    ),
    "when checkpoints are written and which are kept": (
        *("save_strategy", "save_steps", "save_total_limit", "save_on_each_node", "save_only_model"),
        *("load_best_model_at_end", "early_stopping_patience"),
    ),
    "when and how fast an evaluation is made": (
        *(
            "eval_strategy",
            "eval_steps",
            "eval_delay",
            "eval_on_start",
            "per_device_eval_batch_size",
            "match_rows",
            "eval_k",
        ),
        *("eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "batch_eval_metrics"),
    ),
    "how a step is computed": (
        *("per_device_train_batch_size", "gradient_accumulation_steps", "global_batch_size"),  # see prompts_per_step
        *("gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_empty_cache_steps", "use_cpu"),
        *("deepspeed", "fsdp", "fsdp_config", "local_rank"),  # see strategy
        *("ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"),
        *("ddp_static_graph", "ddp_timeout"),
        *("dataloader_multiprocessing_context", "dataloader_num_workers", "dataloader_persistent_workers"),
        *("dataloader_pin_memory", "dataloader_prefetch_factor"),
        *(
            "vllm_server_base_url",
            "vllm_server_timeout",
            "rollout_timeout",
            "weight_transfer",
            "vllm_enable_sleep_mode",
        ),
    ),
}
"""Settings that a resumed run may have otherwise than its checkpoint. Every other one decides the run."""
ELSEWHERE = ("recommender", "max_steps", "num_train_epochs")
"""Settings whose value is not compared as it stands, see `run_settings`."""
NO_MATTER = (
    *("_name_or_path", "architectures", "catalog_fingerprint", "dtype", "transformers_version", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),  # those of the tokenizer, once transformers trains
)
"""What a backbone's config has beside the backbone itself."""
IN_MEMORY = "<in memory>"
"""Stands for what was given in Python and has no import path."""


def run_provenance(
    args: TrainingArguments,
    model: PreTrainedModel,
    catalog: Catalog,
    splits: Mapping[str, Dataset | None],
    runtime_info: Mapping[str, Any],
    further: Mapping[str, Any],
) -> Provenance:
    """What decides a run: catalog, rows by split, backbone, settings, and what was given in Python.

    runtime_info: what the processes are. further: the method, and what was given. Ask before training, since
    transformers adapts the backbone's config to the tokenizer.
    """
    known = {name: rows for name, rows in splits.items() if rows is not None}
    settings = run_settings(args) | backbone_settings(model) | dict(further) | {"columns": _own_columns(known)}
    settings |= {name: runtime_info[name] for name in ("strategy", "precision")}
    settings["parameters"] = [runtime_info["parameters"], runtime_info["trained"]]
    settings["prompts_per_step"] = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    titled = "{titles}" in (getattr(args, "prompt_template", None) or "")
    settings["titles"] = catalog.titles_digest if titled else None
    return Provenance.from_rows(catalog.fingerprint, known, plain(settings))


def named_splits(train: Dataset | None, evaluated: Any) -> dict[str, Dataset | None]:
    """The rows of a run by the names under which they are compared; evaluated: a data set, or several by name."""
    if isinstance(evaluated, Mapping):
        return {"train": train} | {f"validation.{name}": rows for name, rows in evaluated.items()}
    return {"train": train, "validation": evaluated}


def _own_columns(splits: dict[str, Dataset]) -> dict[str, str]:
    """The digests of what rows hold beside the columns of splits, which a user's reward may read."""
    own = {name: sorted({*rows.column_names} - COLUMNS - {ROW_NUMBER}) for name, rows in splits.items()}
    return {name: rows_digest(splits[name].select_columns(columns)) for name, columns in own.items() if columns}


def run_settings(args: TrainingArguments) -> dict[str, Any]:
    """The settings that decide a run, as JSON has them.

    Of a recommender the content counts and not the folder. How long a run trains does not decide it where the learning
    rate is constant and nothing else follows the progress: then such a run may be made longer.
    """
    free = {name for names in FREE.values() for name in names}
    table = json.loads(args.to_json_string())
    settings = {name: value for name, value in table.items() if name not in {*free, *ELSEWHERE}}
    if "recommender" in table:
        settings["recommender"] = table["recommender"] and made_of(table["recommender"]).as_dict()
    if _follows_progress(table):
        settings["max_steps"] = table["max_steps"]
        settings["num_train_epochs"] = None if table["max_steps"] > 0 else table["num_train_epochs"]
    return settings


def _follows_progress(table: dict[str, Any]) -> bool:
    constant = table["lr_scheduler_type"] in ("constant", "constant_with_warmup")
    share = 0 < (table["warmup_steps"] or 0) < 1  # of all steps
    ends = any(name.endswith("_end") and name.startswith("reward_") and value for name, value in table.items())
    return not constant or share or ends or "curriculum" in (table.get("samplers") or ())


def backbone_settings(model: PreTrainedModel) -> dict[str, Any]:
    """The backbone's config, its adapters, and which weights training starts from."""
    config = model.config.to_dict()
    settings = {f"backbone.{name}": value for name, value in config.items() if name not in NO_MATTER}
    adapters = getattr(model, "peft_config", {})
    volatile = ("base_model_name_or_path", "peft_version", "inference_mode")
    settings["lora"] = {
        name: {key: value for key, value in adapter.to_dict().items() if key not in volatile}
        for name, adapter in adapters.items()
    } or None
    settings["start"] = weights_named(getattr(model.config, "_name_or_path", "") or "")
    return settings


def weights_named(name: str) -> str | None:
    """The weights of a run's folder or checkpoint by their content, others by their name; None for new ones."""
    if not (Path(name) / MARKER).is_file() or not name:
        return name or None
    digests = read_json(Path(name) / MARKER, "The marker").get("sha256", {})
    weights = sorted((file, digest) for file, digest in digests.items() if file.endswith(".safetensors"))
    return hashlib.sha256(json.dumps(weights).encode()).hexdigest()[:16]


def import_path(thing: Any) -> str:
    """How another process imports what was given in Python, "module:name"; `IN_MEMORY` where it cannot."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    module = sys.modules.get(named.__module__)
    if module is None or named.__module__ == "__main__":
        return IN_MEMORY
    names = sorted(name for name, value in vars(module).items() if value is thing)
    return f"{named.__module__}:{names[0]}" if names else IN_MEMORY


def plain(value: Any) -> Any:
    """A value as JSON gives it back, sets as sorted lists."""
    return json.loads(json.dumps(value, default=lambda other: sorted(other) if isinstance(other, set) else str(other)))
