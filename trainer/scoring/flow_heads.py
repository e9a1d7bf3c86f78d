"""Learned flows: small networks on the policy's hidden states, kept apart from the policy itself."""

from typing import Any

import torch
from torch import Tensor, nn

NAME = "flow_heads"
"""The attribute of the model under which its heads hang, so that optimizer, DDP and ZeRO find them."""


class FlowHead(nn.Module):
    """log F(s) from the backbone's last hidden state at node s: [..., D] -> [...]. At the root it is log Z(u).

    detached: the head follows the policy at its own, much higher learning rate and never bends it, which serves log Z.
    Flows of inner nodes need states that were trained to hold them: from detached ones `db` learns nothing.
    """

    start: Tensor

    def __init__(self, hidden_size: int, *, detached: bool) -> None:
        super().__init__()
        self.detached = detached
        self.hidden = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size), nn.GELU())
        self.output = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        # not in the bias: ZeRO trains a copy of each parameter, and would undo a change of the parameter alone
        self.register_buffer("start", torch.zeros(()))

    def forward(self, state: Tensor) -> Tensor:
        state = state.detach() if self.detached else state
        # under bfloat16 of DeepSpeed only what is learned beyond the start is rounded
        learned = self.output(self.hidden(state.to(self.output.weight.dtype)))
        return self.start.float() + learned.squeeze(-1).float()

    def start_at(self, log_flow: float) -> None:
        """Begin at a measured log Z: from 0 the first steps would push every trajectory's probability the same way."""
        self.start.fill_(log_flow)


def split_state(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's state dict as (the policy's entries, the flow heads' entries without their prefix)."""
    prefix = f"{NAME}."
    policy = {name: value for name, value in state.items() if not name.startswith(prefix)}
    return policy, {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def attach_flow_head(model: nn.Module, flow: str | None) -> None:
    """Hang a new flow head on the model, as `flow_heads`: with "prompt" log Z(u), with "nodes" log F(s), else none."""
    if flow is not None:
        head = FlowHead(model.config.hidden_size, detached=flow == "prompt")  # type: ignore[union-attr, arg-type]
        setattr(model, NAME, nn.ModuleDict({"log_flow": head}))


def flow_heads(model: nn.Module) -> nn.ModuleDict | None:
    """The heads that `attach_flow_head` hung on a model."""
    return getattr(model, NAME, None)


def parameter_groups(model: nn.Module, args: Any, decayed: list[str]) -> list[dict[str, Any]]:
    """The optimizer's groups; the heads have a learning rate of their own. decayed: the names of what decays."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    heads = [p for name, p in named if name.startswith(f"{NAME}.")]
    policy = [(name, p) for name, p in named if not name.startswith(f"{NAME}.")]
    known = set(decayed)
    rate = args.learning_rate * getattr(args, "flow_lr_multiplier", 1.0)
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in policy if name in known], "weight_decay": args.weight_decay},
        {"params": [p for name, p in policy if name not in known], "weight_decay": 0.0},
        {"params": heads, "weight_decay": 0.0, "lr": rate},
    ]
    return [group for group in groups if group["params"]]
