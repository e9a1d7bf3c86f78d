"""Every field of `transformers.TrainingArguments`: what it does here, or why it is refused."""

from copy import copy
from typing import Any, NamedTuple

import torch
from transformers import Trainer, TrainingArguments
from transformers.debug_utils import DebugOption
from transformers.optimization import get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig

from catalog.errors import InputError, SetupError
from catalog.settings import at_least


class Refused(NamedTuple):
    """The values that a field may have, its default among them, and why it may have no other."""

    allowed: tuple[Any, ...]
    why: str


_EVALUATION = "evaluations rank items by beam search and make no such predictions."
_UPLOAD = "checkpoints are sealed before they get their place, so nothing is uploaded while training."
_LABELS = "rows have a history and a target, no labels."
_COMPILED = "the forward that shares one prompt among its trajectories cannot be compiled."
_LENGTH = "micro-batches are sorted by length already."

APPLIED = frozenset(
    """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
    lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    gradient_accumulation_steps max_grad_norm bf16 fp16 tf32 gradient_checkpointing gradient_checkpointing_kwargs
    neftune_noise_alpha torch_empty_cache_steps logging_strategy logging_steps logging_first_step log_on_each_node
    log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
    trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size eval_on_start save_only_model
    save_strategy save_steps save_on_each_node save_total_limit load_best_model_at_end metric_for_best_model
    greater_is_better restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu
    dataloader_drop_last dataloader_num_workers dataloader_persistent_workers dataloader_prefetch_factor
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_backend ddp_timeout fsdp fsdp_config deepspeed skip_memory_metrics
    resume_from_checkpoint
    """.split()
)
"""What the trainer does as transformers documents it."""

HARMLESS = {
    "do_train": "the program that is started says what is done",
    "do_eval": "follows eval_strategy, and is checked with it",
    "local_rank": "the launcher's environment says it",
    "use_cache": "each forward says for itself whether it caches; the saved config alone has it",
    "logging_nan_inf_filter": "a loss that is no number ends the run before it is logged",
    "dataloader_pin_memory": "the dataloader hands over rows, which have no memory to pin",
}
"""What changes nothing in a run, whatever it says."""

REFUSED = {
    "optim_target_modules": Refused((None,), "the flow heads have a group of their own, which GaLore would not keep."),
    "average_tokens_across_devices": Refused((True,), "a loss always is the mean over the prompts of all processes."),
    "label_smoothing_factor": Refused((0.0,), "the objectives here have no labels to smooth; dpo has label_smoothing."),
    "bf16_full_eval": Refused((False,), "an evaluation computes as training does; bf16 says how."),
    "fp16_full_eval": Refused((False,), "an evaluation computes as training does; fp16 says how."),
    "torch_compile": Refused((False,), _COMPILED),
    "torch_compile_backend": Refused((None,), _COMPILED),
    "torch_compile_mode": Refused((None,), _COMPILED),
    "use_liger_kernel": Refused((False,), "its fused loss is of labels, and its kernels are not checked here."),
    "liger_kernel_config": Refused((None,), "it belongs to use_liger_kernel, which is refused."),
    "auto_find_batch_size": Refused((False,), "a step would take other prompts than the settings say."),
    "include_num_input_tokens_seen": Refused((False, "no"), "the run folder counts tokens already, as cost."),
    "prediction_loss_only": Refused((False,), _EVALUATION),
    "eval_do_concat_batches": Refused((True,), _EVALUATION),
    "eval_use_gather_object": Refused((False,), _EVALUATION),
    "eval_accumulation_steps": Refused((None,), _EVALUATION),
    "include_for_metrics": Refused(([],), _EVALUATION),
    "batch_eval_metrics": Refused((False,), _EVALUATION),
    "enable_jit_checkpoint": Refused((False,), "a SIGTERM keeps the steps done in a checkpoint anyway."),
    "push_to_hub": Refused((False,), _UPLOAD),
    "hub_token": Refused((None,), _UPLOAD),
    "hub_private_repo": Refused((None,), _UPLOAD),
    "hub_model_id": Refused((None,), _UPLOAD),
    "hub_strategy": Refused(("every_save",), _UPLOAD),
    "hub_always_push": Refused((False,), _UPLOAD),
    "hub_revision": Refused((None,), _UPLOAD),
    "ignore_data_skip": Refused((False,), "a resumed run goes on with the rows that the interrupted one had left."),
    "parallelism_config": Refused((None,), "the trainer splits neither layers nor sequences among processes."),
    "dataloader_multiprocessing_context": Refused((None, "fork"), "rows reach the workers by fork."),
    "dataloader_in_order": Refused((True,), "a resumed run could not find the rows that are left."),
    "remove_unused_columns": Refused((False,), "rows carry columns that rewards read."),
    "label_names": Refused((None,), _LABELS),
    "train_sampling_strategy": Refused(("random", "sequential"), _LENGTH),
    "length_column_name": Refused(("length",), _LENGTH),
    "ddp_find_unused_parameters": Refused((False,), "flow heads run after the forward that DDP watches."),
    "ddp_static_graph": Refused((None, False), "flow heads run after the forward that DDP watches."),
    "debug": Refused((None, "", [], "underflow_overflow", [DebugOption.UNDERFLOW_OVERFLOW]), "there are no TPUs here."),
    "do_predict": Refused((False,), "train.py predicts nothing. Run evaluate.py afterwards."),
    "accelerator_config": Refused((None,), "the trainer hands out rows and keeps processes in step by itself."),
}
"""What would do nothing here, or something else than it says, away from these values."""

_STEPS_ITSELF = ("galore", "lomo", "apollo", "schedule_free")


def check_refused(args: TrainingArguments) -> None:
    """Raise InputError for the first of `REFUSED` that has a value which is not allowed."""
    config = args.accelerator_config
    if isinstance(config, dict | AcceleratorConfig):  # as it is after a first check, or says what is so anyway
        given = config if isinstance(config, dict) else config.to_dict()
        if {**AcceleratorConfig().to_dict(), **given} == AcceleratorConfig().to_dict():
            args.accelerator_config = None
    for name, (allowed, why) in REFUSED.items():
        value = getattr(args, name)
        if value not in allowed:
            raise InputError(f"{name}={value!r}: {why}", remedy="Leave it out.", field=name, value=value)


def check_ranges(args: TrainingArguments) -> None:
    """Raise InputError for a number that transformers takes and cannot train with."""
    at_least(args, 1, "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    at_least(args, 1, "save_total_limit", "dataloader_prefetch_factor", "torch_empty_cache_steps", "ddp_bucket_cap_mb")
    at_least(args, 0, "logging_steps", "eval_steps", "save_steps", "num_train_epochs", "adam_epsilon", strictly=True)
    at_least(args, 0, "ddp_timeout", "neftune_noise_alpha", strictly=True)
    at_least(args, 0, "learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "eval_delay")
    at_least(args, 0, "seed", "data_seed", "dataloader_num_workers", "adam_beta1", "adam_beta2")
    for name, bound in {"adam_beta1": 1, "adam_beta2": 1, "seed": 2**32, "data_seed": 2**32}.items():
        if (value := getattr(args, name)) is not None and value >= bound:
            raise InputError(f"{name}={value}: it must be below {bound}.", field=name, value=value)
    if args.max_steps != -1 and args.max_steps < 1:
        raise InputError(
            f"max_steps={args.max_steps}: it must be at least 1.",
            remedy="Leave it out, or set -1, to train num_train_epochs.",
            field="max_steps",
            value=args.max_steps,
        )
    if args.fsdp_config and not args.fsdp:
        raise InputError(
            "fsdp_config belongs to fsdp.", remedy="Leave it out.", field="fsdp_config", value=args.fsdp_config
        )
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise InputError(
            "dataloader_persistent_workers: there are no workers.",
            remedy="Set dataloader_num_workers, or leave it out.",
            field="dataloader_persistent_workers",
            value=True,
        )


def check_optimizer(args: TrainingArguments) -> None:
    """Raise InputError or SetupError where optimizer and schedule cannot be made of the settings."""
    name = str(getattr(args.optim, "value", args.optim))
    if any(kind in name for kind in _STEPS_ITSELF):
        raise InputError(f"optim={name}: the trainer does not step it as it asks.", field="optim", value=name)
    without = copy(args)
    without.optim_args = None
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind([torch.nn.Parameter(torch.zeros(1))], **settings)
        if args.optim_args and settings == Trainer.get_optimizer_cls_and_kwargs(without)[1]:
            raise ValueError("it takes none of them")
    except (ImportError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        if args.optim_args is None:
            raise SetupError(f"optim={name} cannot be used: {error}.", field="optim", value=name) from error
        raise InputError(
            f"optim_args={args.optim_args!r} do not suit optim={name}: {error}.",
            remedy="Give name=value pairs that it knows, with commas between them.",
            field="optim_args",
            value=args.optim_args,
        ) from error
    given, schedule = args.lr_scheduler_kwargs, str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    try:
        get_scheduler(schedule, optimizer, 1, 10, scheduler_specific_kwargs=given)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"lr_scheduler_kwargs={given} do not suit lr_scheduler_type={schedule}: {error}.",
            remedy="Give what this schedule knows.",
            field="lr_scheduler_kwargs",
            value=given,
        ) from error
