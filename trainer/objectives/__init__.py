"""What a step minimises: one pure function a file, FlowInputs -> LossOutput, no model and no I/O.

`sft` raises the likelihood of what users took; `tb` and `vargrad` match the policy's flow to the reward. A new
objective is one file here and one line below.
"""

from collections.abc import Callable

from trainer.objectives.base import FlowInputs, LossOutput
from trainer.objectives.sft import sft
from trainer.objectives.tb import tb
from trainer.objectives.vargrad import vargrad

Objective = Callable[[FlowInputs], LossOutput]

OBJECTIVES: dict[str, Objective] = {"tb": tb, "vargrad": vargrad}
"""The flow objectives by their recipe names."""

__all__ = ["OBJECTIVES", "FlowInputs", "LossOutput", "Objective", "sft", "tb", "vargrad"]
