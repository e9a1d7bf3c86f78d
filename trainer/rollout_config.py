"""What a run whose method draws trajectories can be given: samplers, rewards, and the engine behind `policy`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from catalog import SOURCES
from catalog.errors import InputError
from catalog.settings import as_table, at_least, check_table
from trainer.config import TrainingConfig
from trainer.methods.base import Method, MethodParts
from trainer.methods.without_flows import WithoutFlows
from trainer.objectives import Objective


@dataclass
class RolloutConfig(TrainingConfig, ABC):
    """Arguments of the methods that draw trajectories: which samplers and rewards, and what draws from the policy.

    A method's own config adds its settings and binds them in `make_objective`. The names with vllm in them are TRL's
    where TRL has the setting.
    """

    default_samplers: ClassVar[dict[str, Any]] = {"target": 1, "policy": 3}
    default_rewards: ClassVar[dict[str, Any]] = {}
    needs_target: ClassVar[bool] = True
    """Whether the objective reads the target's own trajectory, whatever sft_weight is."""
    signed_rewards: ClassVar[bool] = True
    """Whether rewards may be below 0."""

    sft_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of L_SFT beside the method's own objective; 0 leaves the objective alone."},
    )
    samplers: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Trajectories per prompt from each sampler, for instance {target: 1, curriculum: 2, policy: 1}; "
            "with settings of its own {target: 1, policy: {count: 2, beams: true}}. Known are target, interactions, "
            "random, curriculum, confidence, policy, replay and reward."
        },
    )
    num_generations: int | None = field(
        default=None,
        metadata={"help": "How many trajectories the policy draws for each prompt: the count of samplers: policy."},
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": "Above 1 the policy's draws are more random, below 1 less: that of samplers: policy, by default 1. "
            "Their log-probabilities stay the policy's."
        },
    )
    trajectories: int | None = field(
        default=None, metadata={"help": "K: where given, the counts of the samplers must sum to it."}
    )
    source_weights: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "How much a sampler's trajectories count in the objective, 1 if not named: {policy: 0.5}."},
    )
    rewards: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Rewards and their weights in the sum, for instance {hit: 1.0, similarity: 0.5}; with settings of "
            "its own {behavior: {weight: 1.0, values: {like: 10, click: 1}}}. Known are hit, behavior, "
            "collaborative, likelihood, similarity, prefix and rank; one of yours is named by its import path, "
            "my_module:my_reward. dpo and sdpo log them and read none."
        },
    )
    recommender: str | None = field(
        default=None,
        metadata={"help": "Folder of a fitted recommender: what collaborative, curriculum and confidence ask."},
    )
    recommender_ahead: bool = field(
        default=False,
        metadata={
            "help": "Let the recommender answer for the next step in a thread while this one is trained. It helps "
            "where that takes long and cores are idle, as beside a GPU; results stay the same."
        },
    )
    use_vllm: bool = field(
        default=False, metadata={"help": "Draw what the sampler `policy` gives with vLLM instead of transformers."}
    )
    vllm_mode: Literal["colocate", "server"] = field(
        default="colocate",
        metadata={
            "help": "'colocate': in the trainer's process and on its device; 'server': by recipes/rollout_server.py."
        },
    )
    vllm_server_base_url: list[str] | str = field(
        default_factory=lambda: ["http://127.0.0.1:8000"],
        metadata={"help": "Of one or each server. Their key is the environment variable GFLOWGR_API_KEY."},
    )
    weight_transfer: Literal["http", "nccl", "ipc"] = field(
        default="http",
        metadata={
            "help": "Of 'server': how the weights go there. 'http' needs nothing; 'nccl' goes from GPU to GPUs, 'ipc' "
            "to a server on the same GPU. rollout_server is started with the same."
        },
    )
    vllm_server_timeout: float = field(
        default=240.0, metadata={"help": "Seconds to wait at the start of training for the servers to be up."}
    )
    rollout_timeout: float = field(
        default=120.0,
        metadata={"help": "Seconds until the whole of an answer must be there; a slower server is left out."},
    )
    vllm_enable_sleep_mode: bool = field(
        default=False,
        metadata={"help": "Of 'colocate' on a GPU: hand the engine's memory to the trainer between rollouts."},
    )
    vllm_engine: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Of 'colocate': further arguments of vllm.LLM, for instance {gpu_memory_utilization: 0.3, "
            "tensor_parallel_size: 2, dtype: bfloat16}. The dtype is that of training unless it is given here."
        },
    )
    rollout_staleness: int = field(
        default=0,
        metadata={
            "help": "How many optimizer steps before it is trained on a trajectory of the policy is drawn. 0 is "
            "on-policy; with 1 the engine draws for the next step while this one is trained."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samplers is not None:
            self.samplers = as_table("samplers", self.samplers)
        at_least(self, 1, "num_generations")
        at_least(self, 0, "temperature", strictly=True)
        self.rewards = as_table("rewards", self.rewards, self.default_rewards)
        self.source_weights = as_table("source_weights", self.source_weights)
        at_least(self, 0, "sft_weight")
        at_least(self, 1, "trajectories")
        check_table("source_weights", self.source_weights, dict.fromkeys(SOURCES, float), "the trajectories' sources")
        weights = [self.source_weights.get(name, 1.0) for name in self.mixture]
        if not any(weights) or min(self.source_weights.values(), default=0.0) < 0:
            raise InputError(
                f"source_weights={self.source_weights}: a weight is below 0, or no trajectory counts.",
                remedy="Give each source a number of at least 0, and one that is sampled a number above 0.",
                field="source_weights",
                value=self.source_weights,
            )
        self._check_samplers()
        self._check_engine()
        if self.recommender_ahead and self.keeps_rows:
            raise InputError(
                "recommender_ahead: with keep_flows the recommender answers for many rows at once, each in one epoch.",
                remedy="Set one of the two.",
                field="recommender_ahead",
            )

    @property
    def mixture(self) -> dict[str, Any]:
        """`samplers`, by default those of the method, with num_generations and temperature in policy's place.

        Raises InputError where these contradict it. The fields stay as given, so that `dataclasses.replace` may change
        one of them.
        """
        samplers = as_table("samplers", self.samplers, self.default_samplers)
        found = samplers.get("policy", 0)
        policy = dict(found) if isinstance(found, Mapping) else {"count": found}
        if self.num_generations is not None:
            if self.samplers is not None and policy.get("count") != self.num_generations:
                raise InputError(
                    f"num_generations={self.num_generations}, but samplers={samplers} has another count of policy.",
                    remedy="Set one of the two.",
                    field="num_generations",
                    value=self.num_generations,
                )
            policy["count"] = self.num_generations
        if self.temperature is not None:
            if not policy.get("count") or policy.get("temperature", self.temperature) != self.temperature:
                raise InputError(
                    f"temperature={self.temperature} is that of samplers: policy, and samplers={samplers}.",
                    remedy="Give policy a count and one temperature.",
                    field="temperature",
                    value=self.temperature,
                )
            policy |= {"temperature": self.temperature} if self.temperature != 1 else {}
        if policy.get("count"):
            samplers["policy"] = policy if len(policy) > 1 else policy["count"]
        return {"target": samplers.pop("target"), **samplers} if "target" in samplers else samplers

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"samplers": self.mixture}

    def _check_samplers(self) -> None:
        mixture = self.mixture
        if (self.needs_target or self.sft_weight or "target" in mixture) and mixture.get("target") != 1:
            raise InputError(
                f"samplers={mixture}: target: 1 is missing, the trajectory that the SFT term or the objective learns.",
                field="samplers",
                value=mixture,
            )
        if self.use_vllm and not mixture.get("policy"):
            raise InputError(
                f"use_vllm: none of samplers={mixture} is policy, which vLLM draws.",
                remedy="Leave it out.",
                field="use_vllm",
            )

    def _check_engine(self) -> None:
        self.vllm_engine = as_table("vllm_engine", self.vllm_engine)
        at_least(self, 0, "rollout_staleness")
        at_least(self, 0, "rollout_timeout", strictly=True)
        at_least(self, 0, "vllm_server_timeout")
        if self.rollout_staleness and not self.use_vllm:
            raise InputError(
                "rollout_staleness: only vLLM draws ahead.",
                remedy="Set use_vllm: true, or leave it out.",
                field="rollout_staleness",
            )
        colocated = self.use_vllm and self.vllm_mode == "colocate"
        for name in ("vllm_engine", "vllm_enable_sleep_mode"):
            if getattr(self, name) and not colocated:
                raise InputError(
                    f"{name} is of use_vllm: true with vllm_mode: colocate.", remedy="Leave it out.", field=name
                )
        if self.rollout_staleness and colocated and self.device.type == "cuda":
            raise InputError(
                "rollout_staleness: an engine in the trainer's process draws on the GPU that trains, so that its work "
                "waits behind the training's and nothing is hidden.",
                remedy="Set vllm_mode: server, with the server on another GPU, or leave rollout_staleness out.",
                field="rollout_staleness",
                value=self.rollout_staleness,
            )
        if self.rollout_staleness and self.vllm_enable_sleep_mode:
            raise InputError(
                "rollout_staleness: an engine that sleeps draws nothing.",
                remedy="Set one of the two.",
                field="rollout_staleness",
            )
        if self.vllm_enable_sleep_mode and self.use_cpu:
            raise InputError(
                "vllm_enable_sleep_mode: vLLM sleeps on GPUs only.",
                remedy="Leave it out.",
                field="vllm_enable_sleep_mode",
            )
        if self.weight_transfer != "http" and not (self.use_vllm and self.vllm_mode == "server"):
            raise InputError(
                f"weight_transfer={self.weight_transfer} is of use_vllm: true with vllm_mode: server.",
                remedy="Leave it out: a colocated engine is handed the weights in memory.",
                field="weight_transfer",
                value=self.weight_transfer,
            )
        if isinstance(self.vllm_server_base_url, str):
            self.vllm_server_base_url = [self.vllm_server_base_url]
        if not self.vllm_server_base_url or not all(self.vllm_server_base_url):
            raise InputError(
                "vllm_server_base_url is empty.",
                remedy="Give the address of a server, or leave it out.",
                field="vllm_server_base_url",
            )

    @abstractmethod
    def make_objective(self) -> Objective:
        """What a step minimizes, with its settings bound: FlowInputs -> LossOutput."""

    def make_method(self, parts: MethodParts) -> Method:
        return WithoutFlows(self.make_objective(), parts, self.source_weights)  # type: ignore[arg-type]  # a table by now


@dataclass
class ReferenceConfig(RolloutConfig):
    """Arguments of the methods whose objective compares with the policy that training starts from."""

    precompute_ref_log_probs: bool = field(
        default=False,
        metadata={
            "help": "Ask the reference policy once, before training, for every item after every training row, and keep "
            "rows x items x 4 bytes instead of a frozen copy of the model. LoRA has no copy anyway."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precompute_ref_log_probs:
            if not self.reads_reference:
                raise InputError(
                    "precompute_ref_log_probs: with beta 0 there is no reference policy.",
                    remedy="Leave it out.",
                    field="precompute_ref_log_probs",
                )
            if self.random_cut or self.normalization == "vocabulary":
                raise InputError(
                    "precompute_ref_log_probs is of whole rows and of items.",
                    remedy="Leave out either it, or random_cut and normalization.",
                    field="precompute_ref_log_probs",
                )
