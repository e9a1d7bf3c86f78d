"""Which objectives come to sample in proportion to the reward? Total variation over the steps, for each of them.

python benchmarks/convergence.py --figure docs/images/convergence.png

A random catalog of 500 items and 4 prompts with rewards of their own, log-normal with sigma = 1.2. Each objective
trains a table of logits (semantic IDs of three codes) and a small transformer (of two codes) from trajectories drawn
at random (off-policy) and from itself (on-policy). SFT learns one item per prompt, drawn from R / Z; GRPO is the
policy gradient with rewards normalized in each group. Neither is meant to match R / Z; they are drawn for comparison.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM

from catalog import SOURCES, Catalog, exact_log_flow, node_tokens, word_tokenizer
from evaluation.figures import LOOK, method_styles
from evaluation.match import match_metrics
from interactions.prompts import PromptBuilder
from policy import CausalPolicy
from trainer.objectives import OBJECTIVES, FlowInputs, LossOutput, sft
from trainer.scoring.flow_heads import FlowHead

ITEMS, PROMPTS, SIGMA, COUNT = 500, 4, 1.2, 80
CODES = {"tabular": (10, 10, 10), "transformer": (25, 25)}
STEPS = {"tabular": 500, "transformer": 300}
PACE = {"db": 1.25, "flow_kl": 0.5}  # times as many steps, for those that need more or fewer
RATES = {"tabular": (0.2, 0.6), "transformer": (6e-3, 6e-3)}  # of the policy and of the learned flows
MATCHED = {"tabular": 0.02, "transformer": 0.05}
"""A total variation below this counts as a match of R / Z."""

Curve = list[tuple[int, float]]


class Problem:
    """A catalog with semantic IDs drawn without replacement, the rewards [4, items] and their exact flows."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        every = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), 1)
        self.catalog = Catalog.from_codes([f"item{i}" for i in range(ITEMS)], rng.permutation(every)[:ITEMS])
        self.trie = self.catalog.trie
        self.log_reward = torch.from_numpy(rng.normal(0, SIGMA, (PROMPTS, ITEMS))).float()
        self.log_flow = exact_log_flow(self.log_reward, self.trie)  # [4, nodes]

    def distance(self, log_prob: Tensor) -> float:
        """Total variation between a policy [4, items] and R / Z, the mean over prompts."""
        return match_metrics(log_prob, self.log_reward, self.trie)["tv"].mean().item()


class Tabular(nn.Module):
    """A logit for every edge and a log F for every node of each prompt's trie."""

    def __init__(self, problem: Problem, flow: str | None) -> None:
        super().__init__()
        self.trie = trie = problem.trie
        self.logits = nn.Parameter(torch.zeros(PROMPTS, trie.nodes))
        self.flows = nn.Parameter(torch.zeros(PROMPTS, trie.nodes), requires_grad=flow in ("prompt", "nodes"))
        self.child = trie.children(torch.arange(trie.level_start[-2]), max(trie.max_children))  # [inner nodes, C]
        self.parent = torch.cat([torch.zeros(1, dtype=torch.long), trie.parent(torch.arange(1, trie.nodes))])

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        return [self.logits], [self.flows]

    def start_at(self, log_z: float) -> None:
        self.flows.data.fill_(log_z)

    def edges(self) -> Tensor:
        """Log-probability of the edge into each node [4, nodes]; the root's is not one."""
        total = self.logits[:, self.child.clamp(min=0)].masked_fill(self.child < 0, -torch.inf).logsumexp(-1)
        return self.logits - total[:, self.parent]

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log_pf [4, K, L], log_flow [4, K, L], child_log_pf [4, K, L, C] of items [4, K]."""
        path, edges = self.trie.path(items), self.edges()
        child = self.child[path[..., :-1]]
        children = at(edges, child.clamp(min=0)).masked_fill(child < 0, -torch.inf)
        return at(edges, path[..., 1:]), at(self.flows, path[..., :-1]), children

    def distribution(self) -> Tensor:
        return self.edges()[:, self.trie.path(torch.arange(self.trie.items))[:, 1:]].sum(-1)


class Transformer(nn.Module):
    """A Qwen3 of two layers that reads four different histories."""

    def __init__(self, problem: Problem, flow: str | None) -> None:
        super().__init__()
        tokenizer = word_tokenizer(problem.trie.sizes)
        rows = [{"history": [i, i + 4, i + 8], "target": 0} for i in range(PROMPTS)]
        self.prompts = PromptBuilder(problem.catalog, tokenizer, max_history=3)(rows)
        shape = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, head_dim=64, initializer_range=0.1)
        heads = dict(num_attention_heads=2, num_key_value_heads=2)
        self.model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("qwen3", vocab_size=len(tokenizer), **shape, **heads)
        )
        self.head = FlowHead(128, detached=flow != "nodes")
        self.policy = CausalPolicy(self.model, problem.trie, node_tokens(tokenizer, problem.trie))

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        return list(self.model.parameters()), list(self.head.parameters())

    def start_at(self, log_z: float) -> None:
        self.head.start_at(log_z)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Tabular`."""
        output = self.policy.log_probs(self.prompts, items, children=True)
        assert output.child_log_pf is not None
        return output.log_pf, self.head(output.states), output.child_log_pf

    def distribution(self) -> Tensor:
        return self.policy.distribution(self.prompts)


def at(values: Tensor, nodes: Tensor) -> Tensor:
    """values [4, nodes] at nodes [4, ...]."""
    return values.gather(1, nodes.flatten(1)).view_as(nodes)


def flow_loss(name: str) -> Callable[..., LossOutput]:
    objective = OBJECTIVES[name]

    def loss(problem: Problem, items: Tensor, outputs: tuple[Tensor, Tensor, Tensor]) -> LossOutput:
        log_pf, learned, child_log_pf = outputs
        path = problem.trie.path(items)
        log_reward = problem.log_reward.gather(1, items)
        flow = at(problem.log_flow, path[..., :-1]) if objective.flow == "exact" else learned
        child = problem.trie.children(path[..., :-1], child_log_pf.shape[-1])
        return objective.loss(
            FlowInputs(
                log_pf=log_pf,
                log_reward=log_reward,
                source=torch.full_like(items, SOURCES.index("random")),
                log_flow=torch.cat([flow, log_reward.unsqueeze(-1)], -1),
                child_log_pf=child_log_pf,
                child_log_flow=at(problem.log_flow, child.clamp(min=0)).masked_fill(child < 0, -torch.inf),
            )
        )

    return loss


def grpo_loss(problem: Problem, items: Tensor, outputs: tuple[Tensor, Tensor, Tensor]) -> LossOutput:
    """Group-normalized policy gradient on-policy, where the ratio to the sampler is 1 (arXiv 2402.03300)."""
    reward = problem.log_reward.gather(1, items).exp()
    advantage = (reward - reward.mean(-1, keepdim=True)) / (reward.std(-1, keepdim=True) + 1e-4)
    return LossOutput.per_prompt(-(advantage * outputs[0].sum(-1)).mean(-1), {})


def sft_loss(problem: Problem, items: Tensor, outputs: tuple[Tensor, Tensor, Tensor]) -> LossOutput:
    target = torch.full_like(items, SOURCES.index("target"))
    return sft(FlowInputs(outputs[0], torch.zeros_like(items, dtype=torch.float32), target))


LOSSES = {name: flow_loss(name) for name in OBJECTIVES} | {"sft": sft_loss, "grpo": grpo_loss}


def train(policy: str, name: str, drawn: str) -> Curve:
    """Total variation over the steps of one objective, [(step, distance)]; drawn: "random" or "policy"."""
    torch.manual_seed(0)
    problem = Problem(CODES[policy])
    flow = OBJECTIVES[name].flow if name in OBJECTIVES else None
    model = (Tabular if policy == "tabular" else Transformer)(problem, flow)
    groups: list[dict[str, Any]] = [
        {"params": part, "lr": rate} for part, rate in zip(model.parts(), RATES[policy], strict=True)
    ]
    steps = int(STEPS[policy] * PACE.get(name, 1))
    optimizer = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, list(RATES[policy]), steps)
    targets = torch.multinomial(problem.log_reward.softmax(-1), 1)
    curve, every = [], steps // 50
    for step in range(steps):
        with torch.no_grad():
            if drawn == "policy" or step % every == 0:
                log_prob = model.distribution()
            if step % every == 0:
                curve.append((step, problem.distance(log_prob)))
            if name == "sft":
                items = targets
            elif drawn == "policy":
                items = torch.multinomial(log_prob.exp(), COUNT, replacement=True)
            else:
                items = torch.randint(ITEMS, (PROMPTS, COUNT))
            if step == 0:  # as the trainer does, at VarGrad's log Z
                model.start_at((problem.log_reward.gather(1, items) - model(items)[0].sum(-1)).mean().item())
        optimizer.zero_grad()
        LOSSES[name](problem, items, model(items)).loss.mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return [*curve, (steps, problem.distance(model.distribution()))]


def draw(curves: dict[tuple[str, str], dict[str, Curve]], path: Path) -> None:
    styles = method_styles(OBJECTIVES)
    gray = {"sft": {"color": "#a5a5a5", "ls": ":"}, "grpo": {"color": "#6e6e6e", "ls": "-."}}
    with rc_context(LOOK):
        figure = Figure(figsize=(9.6, 7.2), layout="constrained")
        axes = figure.subplots(2, 2, sharex="row", sharey=True)
        for axis, ((policy, drawn), by_name) in zip(axes.ravel(), curves.items(), strict=True):
            for name, curve in by_name.items():
                look = gray.get(name)
                if look is None:
                    look = {"color": styles[name].color, "ls": "--" if OBJECTIVES[name].flow == "exact" else "-"}
                axis.plot(*zip(*curve, strict=True), lw=1.8, label=name, **look)
            axis.axhline(MATCHED[policy], color="#333333", lw=0.8)
            axis.text(STEPS[policy] / 150, 0.92 * MATCHED[policy], f"{MATCHED[policy]:g}", va="top", size=8.5)
            kind = "Table of logits" if policy == "tabular" else "Transformer"
            axis.set_title(f"{kind}, {'on' if drawn == 'policy' else 'off'}-policy")
            axis.set(yscale="log", ylim=(5e-4, 1.3), xlim=(0, 1.25 * STEPS[policy]))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        for axis in axes[1]:
            axis.set_xlabel("optimizer step")
        for axis in axes[:, 0]:
            axis.set_ylabel("total variation to R / Z")
        lines = axes[1, 1].get_legend_handles_labels()
        figure.legend(*lines, loc="outside upper left", ncols=9, handlelength=2.2, columnspacing=1.1)
        figure.supxlabel("dashed: exact flows of the whole catalog; gray: not meant to match R / Z", size=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=Path("runs/convergence.png"))
    args = parser.parse_args()
    curves = {}
    for policy in CODES:
        for drawn in ("random", "policy"):
            names = [name for name in LOSSES if name != "grpo" or drawn == "policy"]
            bar = tqdm(names, desc=f"{policy}, {drawn}")
            curves[policy, drawn] = {name: train(policy, name, drawn) for name in bar}
    draw(curves, args.figure)
    print(json.dumps({f"{p}_{d}_{n}": c[-1][1] for (p, d), by_name in curves.items() for n, c in by_name.items()}))


if __name__ == "__main__":
    main()
