"""Every program with its settings, for the pages that are made from the code and for the tests of the pages."""

from experiments.arguments import (
    CompareArguments,
    EvaluateArguments,
    ExportArguments,
    RecommenderArguments,
    ReproduceArguments,
    RunArguments,
    SuggestArguments,
)
from experiments.doctor import DoctorArguments
from experiments.plan import PlanArguments
from experiments.recommend_arguments import RecommendArguments
from experiments.server_arguments import RolloutServerArguments, ServeArguments
from experiments.tune_arguments import TuneArguments
from semantic_ids.settings import DataArguments, ExtendArguments

PROGRAMS = {
    "prepare": DataArguments,
    "extend": ExtendArguments,
    "suggest": SuggestArguments,
    "recommenders": RecommenderArguments,
    "train": RunArguments,
    "evaluate": EvaluateArguments,
    "recommend": RecommendArguments,
    "serve": ServeArguments,
    "compare": CompareArguments,
    "tune": TuneArguments,
    "reproduce": ReproduceArguments,
    "export": ExportArguments,
    "plan": PlanArguments,
    "rollout_server": RolloutServerArguments,
    "doctor": DoctorArguments,
}
"""The command of `gflowgr` -> its settings; a method of `train` has more of its own."""
