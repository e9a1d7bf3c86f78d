"""The layers of SASRec's network: causal, `[B, N, dimensions] -> [B, N, dimensions]`, padding behind the items.

A row's states depend on neither the other rows nor how long these are.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from recommenders.sasrec import SASRecSettings


def layers(settings: "SASRecSettings") -> nn.Module:
    """`settings.layers` layers of the kind `settings.layer`, and a last normalization."""
    width = settings.dimensions
    if settings.layer == "sasrec":
        block = nn.TransformerEncoderLayer(
            width, settings.heads, width, settings.dropout, "gelu", batch_first=True, norm_first=True
        )
        return Transformer(block, settings.layers, nn.LayerNorm(width), enable_nested_tensor=False)
    kind = {"hstu": HSTULayer, "ligr": LiGRLayer}[settings.layer]
    return nn.Sequential(*(kind(settings) for _ in range(settings.layers)), nn.LayerNorm(width))


class Transformer(nn.TransformerEncoder):
    """Pre-norm self-attention and a feed-forward as wide as the states, as in SASRec, arXiv 1808.09781."""

    def forward(self, states: Tensor) -> Tensor:  # type: ignore[override]
        causal = nn.Transformer.generate_square_subsequent_mask(states.shape[1], device=states.device)
        return super().forward(states, mask=causal, is_causal=True)


class HSTULayer(nn.Module):
    """Pointwise aggregated attention with a gate: HSTU, arXiv 2402.17152, equations 1 to 3, without times of events.

    U, V, Q, K = SiLU(W1 norm(x));  y = W2 (norm(A V) * U) + x,  A = SiLU(Q K^T + b) / max_length, of earlier items

    b: learned, of how many items lie between, for each head. No softmax divides by the sum over the history, so how
    often something was taken is not lost.
    """

    def __init__(self, settings: "SASRecSettings") -> None:
        super().__init__()
        width, self.heads, self.length = settings.dimensions, settings.heads, settings.max_length
        self.norm, self.attended_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 4 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(self.heads, self.length))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, states: Tensor) -> Tensor:
        batch, length, width = states.shape
        gate, *others = F.silu(self.project(self.norm(states))).chunk(4, -1)
        value, query, key = (x.view(batch, length, self.heads, -1).transpose(1, 2) for x in others)  # [B, h, N, d / h]
        place = torch.arange(length, device=states.device)
        age = place.unsqueeze(1) - place  # [N, N]
        weight = F.silu(query @ key.transpose(2, 3) + self.bias[:, age.clamp(min=0)]) / self.length  # [B, h, N, N]
        attended = (weight * (age >= 0)) @ value
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        return states + self.out(self.dropout(self.attended_norm(attended) * gate))


class LiGRLayer(nn.Module):
    """Self-attention and a SwiGLU four times as wide, each added through a gate: LiGR, arXiv 2502.03417, as eSASRec
    has it, arXiv 2508.06450.

    x + attention(norm(x)) * sigmoid(W x), then the same with the feed-forward.
    """

    def __init__(self, settings: "SASRecSettings") -> None:
        super().__init__()
        width, self.heads, self.rate = settings.dimensions, settings.heads, settings.dropout
        self.norm, self.wide_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 8 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.gate, self.wide_gate = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, states: Tensor) -> Tensor:
        batch, length, width = states.shape
        parts = self.project(self.norm(states)).chunk(3, -1)
        query, key, value = (x.view(batch, length, self.heads, -1).transpose(1, 2) for x in parts)  # [B, h, N, d / h]
        rate = self.rate if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        attended = self.out(attended.transpose(1, 2).reshape(batch, length, width))
        states = states + self.dropout(attended) * self.gate(states).sigmoid()
        left, right = self.wide(self.wide_norm(states)).chunk(2, -1)
        return states + self.dropout(self.narrow(F.silu(left) * right)) * self.wide_gate(states).sigmoid()
