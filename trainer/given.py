"""What a caller gives a trainer in Python beside config, model and data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from catalog.errors import InputError
from recommenders import Recommender
from samplers import Sampler
from trainer.config import TrainingConfig
from trainer.rollout_config import RolloutConfig
from trainer.runtime.provenance import IN_MEMORY, import_path, weights_named


@dataclass(frozen=True)
class Given:
    """See `RecommenderTrainer` for each; None for what is not given."""

    reward_funcs: Any
    reward_weights: Sequence[float] | None
    samplers: Mapping[str, Sampler] | None
    recommender: Recommender | None
    ref_model: str | Path | PreTrainedModel | None
    optimizers: tuple[torch.optim.Optimizer | None, Any]

    @property
    def rewards(self) -> list[Any]:
        """The rewards, one by one."""
        if self.reward_funcs is None:
            return []
        return list(self.reward_funcs) if isinstance(self.reward_funcs, list | tuple) else [self.reward_funcs]

    @property
    def weights(self) -> list[float]:
        """The weight of each reward."""
        return [1.0] * len(self.rewards) if self.reward_weights is None else list(map(float, self.reward_weights))

    def recorded(self) -> dict[str, Any]:
        """The import paths of what changes what is learned, for the run's folder and its checkpoints."""
        found: dict[str, Any] = {}
        if self.samplers:
            found["samplers"] = {name: import_path(sampler) for name, sampler in self.samplers.items()}
        if self.recommender is not None:
            found["recommender"] = import_path(self.recommender)
        if self.rewards:
            found["rewards"] = dict(zip(self._reward_paths(), self.weights, strict=True))
        if (reference := self.ref_model) is not None:
            name = reference.config._name_or_path if isinstance(reference, PreTrainedModel) else str(reference)
            found["ref_model"] = weights_named(name or "") or IN_MEMORY
        if self.optimizers[0] is not None:
            defaults = {name: str(value) for name, value in sorted(self.optimizers[0].defaults.items())}
            found["optimizer"] = {import_path(type(self.optimizers[0])): defaults}
        if self.optimizers[1] is not None:
            found["scheduler"] = import_path(type(self.optimizers[1]))
        return found

    def _reward_paths(self) -> list[str]:
        """How each reward is found again; those in memory are numbered, since they cannot be."""
        paths = [str(reward) if isinstance(reward, str | Path) else import_path(reward) for reward in self.rewards]
        alone = len(paths) == 1
        return [path if alone or path != IN_MEMORY else f"{IN_MEMORY} {n}" for n, path in enumerate(paths, 1)]


def check_given(name: str, args: TrainingConfig, given: Given, model: Any, backbone: Any, *, adapted: bool) -> None:
    """Raise InputError for parts that the trainer called `name` does not read, or not as they are.

    model: what the caller gave; backbone: what it is. adapted: whether it is trained by adapters.
    """
    draws = isinstance(args, RolloutConfig)
    unread = {
        "reward_funcs": bool(given.rewards) and not draws,
        "samplers": bool(given.samplers) and not draws,
        "recommender": given.recommender is not None and not draws,
        "ref_model": given.ref_model is not None and (not args.reads_reference or bool(args.precompute_ref_log_probs)),
        "reward_weights": given.reward_weights is not None and not given.rewards,
    }
    for field in (field for field, found in unread.items() if found):
        remedy = "Give reward_funcs too, or leave it out." if field == "reward_weights" else "Leave it out."
        raise InputError(f"{name} with these settings reads no {field}.", remedy=remedy, field=field)
    if given.ref_model is backbone:
        raise InputError(
            "ref_model is the model that is trained, and would change with it.",
            remedy="Leave it out: the reference is the model as it is given.",
            field="ref_model",
        )
    if given.optimizers[0] is not None:
        _check_optimizer(name, args, given.optimizers[0], model, backbone, adapted)
    _check_rewards(args, given)


def _check_optimizer(
    name: str, args: TrainingConfig, optimizer: torch.optim.Optimizer, model: Any, backbone: Any, adapted: bool
) -> None:
    """Its groups must be of the weights that are trained, all of them."""
    problem = ""
    if adapted or args.flow_head:
        problem = f"{name} adds weights of its own here, adapters or flow heads, which yours does not have"
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if model is not backbone or not own <= {id(parameter) for parameter in backbone.parameters()}:
        problem = "yours trains other weights than those of the model"
    if problem:
        raise InputError(
            f"optimizers: {problem}.", remedy="Set optim and learning_rate in the config.", field="optimizers"
        )


def _check_rewards(args: TrainingConfig, given: Given) -> None:
    if "likelihood" in given.rewards and getattr(args, "flow_positions", "target") == "all":
        raise InputError(
            "reward_funcs: with flow_positions: all, likelihood would ask a policy after every prefix of a history.",
            remedy="Leave it out, or set flow_positions: target.",
            field="reward_funcs",
        )
    for reward in given.rewards:
        if not callable(reward) and not isinstance(reward, str | Path):
            raise InputError(
                f"reward_funcs: {reward!r} is no reward.",
                remedy="Give functions, objects, names of rewards or folders of models.",
                field="reward_funcs",
                value=reward,
            )
    paths = [path for path in given._reward_paths() if given._reward_paths().count(path) > 1]
    if paths:
        raise InputError(f"reward_funcs: {paths[0]} is given twice.", remedy="Leave one out.", field="reward_funcs")
    if given.reward_weights is None:
        return
    numbers = all(isinstance(weight, Real) and 0 <= weight < float("inf") for weight in given.reward_weights)
    if len(given.reward_weights) != len(given.rewards) or not numbers or not any(given.reward_weights):
        raise InputError(
            f"reward_weights={list(given.reward_weights)} are not the weights of {len(given.rewards)} reward_funcs.",
            remedy="Give a number of at least 0 for each, and one above 0.",
            field="reward_weights",
            value=given.reward_weights,
        )
