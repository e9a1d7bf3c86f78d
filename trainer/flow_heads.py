"""Learned flows: small networks on the policy's hidden states, kept apart from the policy itself."""

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
