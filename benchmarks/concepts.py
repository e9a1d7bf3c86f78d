"""The two pictures of docs/concepts.md: a trie of ten items, and what SFT, GRPO and a GFlowNet make of a policy.

python benchmarks/concepts.py --folder docs/images

The catalog and the rewards are made by hand. The policies are trained here, by the objectives of trainer/objectives:
a table of logits, one for each edge of the trie, 300 steps of 40 trajectories drawn from itself. SFT reads the
user's next item alone. All begin at the same policy, which knows the shop's sales and not this user.
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from convergence import LOSSES, PROMPTS, Tabular
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from catalog import Catalog, exact_log_flow
from evaluation.figures import COLORS, LOOK

STEPS, COUNT, RATES = 300, 40, (0.1, 0.3)
HISTORY, TARGET = "trail shoes, tent", "sleeping bag"
ITEMS = {  # title: (codes, reward after this history, sales)
    "tent": ((0, 0, 0), 0.2, 4),
    "sleeping bag": ((0, 0, 1), 4.0, 2),
    "camping stove": ((0, 0, 2), 2.5, 2),
    "hiking boots": ((0, 1, 0), 2.0, 3),
    "hiking poles": ((0, 1, 1), 1.5, 1),
    "running shoes": ((1, 0, 0), 0.5, 6),
    "trail shoes": ((1, 0, 1), 0.2, 3),
    "running socks": ((1, 0, 2), 0.6, 5),
    "trail guide": ((2, 0, 0), 1.2, 1),
    "cookbook": ((2, 1, 0), 0.2, 5),
}
NAMES = list(ITEMS)
BEFORE = "before"
METHODS = {"sft": "SFT on the next item", "grpo": "GRPO", "tb": "GFlowNet (tb)"}


def problem() -> SimpleNamespace:
    """The catalog and its rewards, as those of `convergence.py`: trie, log_reward [4, 10], log_flow [4, nodes]."""
    codes, rewards, _ = zip(*ITEMS.values(), strict=True)
    catalog = Catalog.from_codes(NAMES, np.array(codes), sizes=(3, 2, 3))
    log_reward = torch.tensor(rewards).log().expand(PROMPTS, -1)
    return SimpleNamespace(trie=catalog.trie, log_reward=log_reward, log_flow=exact_log_flow(log_reward, catalog.trie))


def policy_of_sales(of: SimpleNamespace) -> Tabular:
    """P_F(item) in proportion to its sales."""
    policy = Tabular(of, "prompt")
    sales = torch.tensor([sold for _, _, sold in ITEMS.values()]).float().log()
    policy.logits.data.copy_(exact_log_flow(sales.expand(PROMPTS, -1), of.trie))
    return policy


def train(method: str) -> Tensor:
    """The probabilities [10] of the policy after `STEPS` steps."""
    torch.manual_seed(0)
    of = problem()
    policy = policy_of_sales(of)
    groups = [{"params": part, "lr": rate} for part, rate in zip(policy.parts(), RATES, strict=True)]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for _ in range(STEPS):
        with torch.no_grad():
            drawn = torch.multinomial(policy.distribution().exp(), COUNT, replacement=True)
        items = torch.full((PROMPTS, 1), NAMES.index(TARGET)) if method == "sft" else drawn
        optimizer.zero_grad()
        LOSSES[method](of, items, policy(items)).loss.mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return policy.distribution()[0].exp()


def draw_trie(path: Path) -> None:
    """The trie, the item's path in color, and what may follow its first code."""
    codes = {name: code for name, (code, _, _) in ITEMS.items()}
    height = {name: -float(row) for row, name in enumerate(NAMES)}
    places: dict[tuple[int, ...], float] = {}
    for depth in range(4):
        for prefix in {code[:depth] for code in codes.values()}:
            places[prefix] = float(np.mean([height[name] for name, code in codes.items() if code[:depth] == prefix]))
    with rc_context(LOOK | {"axes.grid": False}):
        figure = Figure(figsize=(8.2, 4.3), layout="constrained")
        axis = figure.subplots()
        for prefix, y in places.items():
            if prefix:
                on_path = codes[TARGET][: len(prefix)] == prefix
                look = {"color": COLORS[1], "lw": 2.4} if on_path else {"color": "#b5b5b5", "lw": 1.2}
                x = len(prefix)
                axis.plot([x - 1, x], [places[prefix[:-1]], y], zorder=1, **look)
                at = (x - 0.42, y + 0.42 * (places[prefix[:-1]] - y))
                text = f"<{'abc'[x - 1]}_{prefix[-1]}>"
                axis.text(
                    *at, text, size=8, ha="center", va="center", zorder=3, bbox={"fc": "white", "ec": "none", "pad": 1}
                )
        legal = [prefix for prefix in places if len(prefix) == 2 and prefix[0] == codes[TARGET][0]]
        for prefix, y in places.items():
            color = COLORS[0] if prefix in legal else "#6e6e6e"
            axis.scatter(len(prefix), y, s=60 if prefix in legal else 34, color=color, zorder=2)
        for name, y in height.items():
            bold = "bold" if name == TARGET else "normal"
            axis.text(3.08, y, name, va="center", weight=bold)
        axis.text(0, places[()] + 0.5, "root", ha="center", size=9)
        axis.text(2, 1.0, "blue: the codes that are legal after <a_0>", ha="center", size=9, color=COLORS[0])
        axis.set(xlim=(-0.15, 3.9), ylim=(-9.6, 1.5))
        axis.axis("off")
        figure.savefig(path)


def bars(axis: Axes, reward: Tensor, probability: Tensor, title: str, color: str) -> None:
    rows = -np.arange(len(NAMES))
    axis.barh(rows, reward, height=0.78, color="#d9d9d6", label="R / Z")
    axis.barh(rows, probability, height=0.36, color=color, label="policy")
    axis.set_title(title)
    axis.set(yticks=rows, yticklabels=NAMES, xlim=(0, 1.02))
    axis.grid(visible=False, axis="y")


def draw_policies(found: dict[str, Tensor], path: Path) -> None:
    """A panel of bars for each policy over those of R / Z."""
    reward = problem().log_reward[0].softmax(-1)
    with rc_context(LOOK):
        figure = Figure(figsize=(10.4, 3.4), layout="constrained")
        axes = figure.subplots(1, len(found), sharey=True)
        titles = {BEFORE: "Before: what sells", **METHODS}
        colors = ("#6e6e6e", COLORS[4], COLORS[2], COLORS[1])
        for axis, (name, probability), color in zip(axes, found.items(), colors, strict=True):
            distance = (probability - reward).abs().sum().item() / 2
            bars(axis, reward, probability, titles[name], color)
            axis.set_xlabel(f"share; {distance:.2f} from R / Z")
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/concepts"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        before = policy_of_sales(problem()).distribution()[0].exp()
    found = {BEFORE: before} | {method: train(method) for method in METHODS}
    draw_trie(folder / "trie.svg")
    draw_policies(found, folder / "policies.svg")
    print(json.dumps({name: [round(p, 3) for p in probability.tolist()] for name, probability in found.items()}))


if __name__ == "__main__":
    main()
