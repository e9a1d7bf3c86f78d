"""What a step minimizes: one pure function a file, FlowInputs -> LossOutput, no model and no I/O.

`sft` raises the likelihood of what users took, `dpo` and `sdpo` prefer it to other items, `grpo` raises what has more
reward than its group. The flow objectives match the policy's flow to the reward. They differ in where log F(s) comes
from: a learned head (`tb`, `db`, `subtb`), the trajectories at hand (`vargrad`), or the reward of the whole catalog
(`exact_tb`, `exact_db`, `flow_kl`). A new flow objective is one file here and one line below, and a setting that no
other one has is a field of `GFlowNetConfig`.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from trainer.objectives.base import FlowInputs, LossOutput
from trainer.objectives.db import db
from trainer.objectives.dpo import dpo
from trainer.objectives.flow_kl import flow_kl
from trainer.objectives.grpo import grpo
from trainer.objectives.sdpo import sdpo
from trainer.objectives.sft import sft
from trainer.objectives.subtb import subtb
from trainer.objectives.tb import tb
from trainer.objectives.vargrad import vargrad

Objective = Callable[..., LossOutput]


class FlowObjective(NamedTuple):
    """A flow objective and what it needs.

    flow: where log_flow comes from; "prompt" is a learned log Z(u) in log_flow[..., 0], "nodes" a learned log F(s) of
    every node, "exact" the reward of the whole catalog. options: its keyword arguments, each with the field of
    `GFlowNetConfig` that is bound to it. children: whether it reads all children of the visited nodes, for which flow
    must be "exact". trajectories: the fewest it works with.
    """

    loss: Objective
    flow: Literal["prompt", "nodes", "exact"] | None
    options: Mapping[str, str] = {"clip": "residual_clip"}
    children: bool = False
    trajectories: int = 1


OBJECTIVES = {
    "tb": FlowObjective(tb, "prompt"),
    "vargrad": FlowObjective(vargrad, None, trajectories=2),
    "db": FlowObjective(db, "nodes"),
    "subtb": FlowObjective(subtb, "nodes", options={"clip": "residual_clip", "lambda_": "subtb_lambda"}),
    "exact_tb": FlowObjective(tb, "exact"),
    "exact_db": FlowObjective(db, "exact"),
    "flow_kl": FlowObjective(flow_kl, "exact", options={}, children=True),
}
"""The flow objectives by their recipe names."""

__all__ = [
    "OBJECTIVES",
    "FlowInputs",
    "FlowObjective",
    "LossOutput",
    "Objective",
    "db",
    "dpo",
    "flow_kl",
    "grpo",
    "sdpo",
    "sft",
    "subtb",
    "tb",
    "vargrad",
]
