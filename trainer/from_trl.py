"""What TRL's trainers and configs have and these have not, each with what there is instead."""

from typing import Any

from catalog.errors import InputError

_ROWS = "Rows become prompts by max_history and prompt_template."
_LOAD = "Load the model yourself and give it as model."
_REFERENCE = "The reference stays the policy that training starts from; ref_model replaces it."
_DRAWS = "Draws keep to the catalog's trie; set temperature, or settings of samplers: policy."
_ENGINE = "Give it in vllm_engine."
_DRIFT = "Draws of older weights are weighed by the ratio to these; see rollout_staleness."
_NO_TOOLS = "Trajectories are items of the catalog."

ARGUMENTS = {
    "compute_loss_func": "Write a method, see docs/methods.md.",
    "compute_metrics": "Compute them from trainer.predict(rows).",
    "data_collator": _ROWS,
    "environment_factory": _NO_TOOLS,
    "formatting_func": _ROWS,
    "model_init": _LOAD,
    "optimizer_cls_and_kwargs": "Set optim and learning_rate in the config, or give optimizers.",
    "preprocess_logits_for_metrics": "Compute metrics from trainer.predict(rows).",
    "quantization_config": _LOAD,
    "reward_processing_classes": "A reward model brings the tokenizer of its folder.",
    "rewards": "Give them as reward_funcs.",
    "rollout_func": "Give a sampler in samplers.",
    "tokenizer": "Give it as processing_class.",
    "tools": _NO_TOOLS,
}
"""Arguments of the trainers."""

_SETTINGS = {
    _LOAD: ("model_init_kwargs",),
    "Code that a checkpoint brings is never run.": ("trust_remote_code",),
    "The auxiliary loss of a router is not trained.": ("router_aux_loss_coef",),
    "Set the backbone's rates of dropout; they are those of its config.": ("disable_dropout",),
    "Set gradient_checkpointing.": ("activation_offloading",),
    "Log-probabilities are computed in float32.": ("cast_lm_head_to_fp32",),
    _ROWS: (
        *("chat_template_path", "chat_template_kwargs", "dataset_text_field", "dataset_kwargs", "dataset_num_proc"),
        *("eos_token", "pad_token", "max_length", "truncation_mode", "completion_only_loss", "assistant_only_loss"),
    ),
    "A prompt is computed once for all its trajectories; rows of several micro-batches are sorted by length.": (
        *("packing", "packing_strategy", "padding_free", "eval_packing", "pad_to_multiple_of"),
    ),
    "Training rows are shuffled in every epoch.": ("shuffle_dataset",),
    _REFERENCE: ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    "Set per_device_eval_batch_size.": ("precompute_ref_batch_size",),
    "GRPO's own, a mean over the codes of an item; of DPO there is a choice.": ("loss_type",),
    "Set loss_type to sigmoid or ipo.": (
        *("loss_weights", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau"),
    ),
    "Evaluations rank by beam search, see beam_width.": ("num_generations_eval",),
    "An item has as many codes as the catalog has levels.": (
        *("max_completion_length", "mask_truncated_completions", "max_tool_calling_iterations"),
    ),
    _DRAWS: (
        *("top_p", "top_k", "min_p", "generation_kwargs", "repetition_penalty", "cache_implementation"),
        *("use_transformers_continuous_batching", "transformers_continuous_batching_config"),
        *("use_transformers_paged", "vllm_structured_outputs_regex"),
    ),
    "Weights are gathered in buckets for a rollout engine.": ("ds3_gather_for_generation",),
    "A step draws for its own prompts; set global_batch_size.": ("generation_batch_size", "steps_per_generation"),
    "Each trajectory is trained once; replay draws it again.": ("num_iterations",),
    _ENGINE: ("vllm_model_impl", "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size"),
    "It follows from max_history and the catalog.": ("vllm_max_model_length",),
    "Give vllm_server_base_url.": ("vllm_server_host", "vllm_server_port", "vllm_group_port"),
    "Set early_clip for ECPO's bound of negative advantages.": ("delta",),
    "Set epsilon and epsilon_high: the objective is GRPO's, clipped step by step.": (
        *("sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg"),
        *("vespo_lambda_neg", "importance_sampling_level", "top_entropy_quantile"),
    ),
    "Give the weights in rewards, or reward_weights to the trainer.": ("reward_weights",),
    "Rewards are summed by their weights.": ("multi_objective_aggregation",),
    "Add exploration by settings of samplers: policy.": (
        *("entropy_coef", "use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta"),
        *("entropy_target",),
    ),
    _DRIFT: (
        *("vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_cap"),
        *("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min", "off_policy_mask_threshold"),
    ),
    "Set log_trajectories_steps.": (
        *("log_completions", "log_multimodal", "num_completions_to_print", "log_unique_prompts"),
        *("log_completions_hub_repo",),
    ),
}
SETTINGS = {name: instead for instead, names in _SETTINGS.items() for name in names}
"""Settings of the configs."""


DIFFERENCES = {
    "label_smoothing": "it smooths sigmoid here; in TRL other losses",
    "loss_type": "sigmoid or ipo, one of them",
    "processing_class": "the tokenizer",
    "reward_funcs": "texts alone, no trainer_state and no log functions; None counts 0",
    "scale_rewards": "group or none",
    "temperature": "of the draws alone; the loss reads P_F at temperature 1",
    "vllm_server_base_url": "of rollout servers of this project, not of vLLM's own; several are allowed",
}
"""What is not quite TRL's, of arguments and settings that both have."""


def same(name: str) -> str:
    """What docs/from_trl.md says of a name that both have."""
    return f"the same: {DIFFERENCES[name]}" if name in DIFFERENCES else "the same"


def refuse(what: str, given: dict[str, Any] | set[str], known: dict[str, str]) -> None:
    """Raise InputError for the first name of TRL's that `what` has not, with what there is instead."""
    if found := sorted(set(given) & set(known)):
        raise InputError(f"{what} has no {found[0]}.", remedy=known[found[0]], field=found[0])
