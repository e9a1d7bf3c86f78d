"""What a step minimises: one pure function a file, FlowInputs -> LossOutput, no model and no I/O.

`sft` raises the likelihood of what users took; `tb` and `vargrad` match the policy's flow to the reward. A new
objective is one file here and one line below.
"""

from collections.abc import Callable
from typing import NamedTuple

from trainer.objectives.base import FlowInputs, LossOutput
from trainer.objectives.sft import sft
from trainer.objectives.tb import tb
from trainer.objectives.vargrad import vargrad

Objective = Callable[[FlowInputs], LossOutput]


class FlowObjective(NamedTuple):
    """A flow objective and what it needs: a learned log Z(u) in log_flow[..., 0], and so many trajectories a prompt."""

    loss: Objective
    learns_log_z: bool = False
    trajectories: int = 1


OBJECTIVES = {
    "tb": FlowObjective(tb, learns_log_z=True),
    "vargrad": FlowObjective(vargrad, trajectories=2),
}
"""The flow objectives by their recipe names."""

__all__ = ["OBJECTIVES", "FlowInputs", "FlowObjective", "LossOutput", "Objective", "sft", "tb", "vargrad"]
