"""A model that classifies sequences as a reward: the reward model of TRL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from catalog.errors import InputError
from policy.loading import zero3_init_disabled


class RewardModel:
    """The logit that a sequence classification model gives to a prompt and its completion, as in TRL's trainers.

    model: has one label; tokenizer: that of the model, with a padding token. It is a reward function of TRL, texts in
    and numbers out, see `rewards.trl`. A GFlowNet needs a model whose logits are never below 0.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64) -> None:
        if model.config.num_labels != 1:
            raise InputError(
                f"The reward model has {model.config.num_labels} labels.",
                remedy="Give one with a single label, whose logit is the reward.",
                field="reward_funcs",
                value=model.config.num_labels,
            )
        self.model, self.tokenizer, self.batch_size = model.eval().requires_grad_(False), tokenizer, batch_size
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id

    @classmethod
    def load(cls, model: str | Path | PreTrainedModel, device: torch.device | None = None) -> "RewardModel":
        """From a folder or a hub name, or a model whose tokenizer lies where it was loaded from; put on `device`.

        Raises InputError where there is none.
        """
        name = getattr(model.config, "_name_or_path", "") if isinstance(model, PreTrainedModel) else str(model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            loaded: Any = model
            missing: list[str] = []
            if not isinstance(model, PreTrainedModel):
                kind: Any = AutoModelForSequenceClassification
                with zero3_init_disabled():  # no engine would gather its shards
                    loaded, info = kind.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
                missing = sorted(info["missing_keys"])
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"reward_funcs: {name!r} is no stock reward, no import path module:name, and no model that classifies "
                f"sequences ({' '.join(str(error).split())[:200]}).",
                remedy="Give one of them.",
                field="reward_funcs",
                value=name,
            ) from error
        if missing:
            raise InputError(
                f"reward_funcs: {name} lacks {missing[0]}, which transformers would draw at random.",
                remedy="Give a model that was trained to classify sequences.",
                field="reward_funcs",
                value=name,
            )
        return cls(loaded if device is None else loaded.to(device), tokenizer)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        rewards: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                part = texts[start : start + self.batch_size]
                tokens = self.tokenizer(part, return_tensors="pt", padding=True, add_special_tokens=False)
                logits = self.model(**tokens.to(self.model.device)).logits  # [texts, 1]
                rewards += logits[:, 0].float().tolist()
        return rewards
