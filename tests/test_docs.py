"""What the pages say is what the code does: metrics, links, commands and the reward example."""

import json
import re
import shlex
import sys
import threading
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model

from catalog import Trajectories
from evaluation import METRIC_HELP
from experiments.accelerated import split
from experiments.arguments import RunArguments
from experiments.command_line import parse, setting
from experiments.programs import PROGRAMS
from rewards import RewardParts, WeightedSum, load_reward
from trainer import METHODS, METRICS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEADERS = [path for path in sorted((ROOT / "recipes").rglob("*")) if path.suffix in (".py", ".yaml")]
OF_OTHER_PROGRAMS = ("compare", "data", "recommend", "recommenders", "scaling", "serving", "serving_vllm", "tuning")
TYPES = {name: kind for name, kind in PROGRAMS.items() if name != "train"}
NAMES = "|".join([*TYPES, "train"])
COMMAND = re.compile(
    r"\b(?:(?:python|accelerate launch) recipes/(\w+)\.py|(?:python|accelerate launch(?: --\w+ \S+)*) -m recipes\.(\w+)"
    rf"|gflowgr ({NAMES}))((?: [^\n`]*)?)"
)


def commands():
    """(file, program, its arguments) of every command in the pages and in what the recipes begin with."""
    for path in PAGES + HEADERS:
        text = path.read_text().replace("\\\n", " ")
        if path.suffix == ".py":
            text = text.split('"""')[1]
        elif path.suffix == ".yaml":
            text = "\n".join(line for line in text.splitlines() if line.startswith("#"))
        for *programs, arguments in COMMAND.findall(text):
            if not {"--help", "..."} & set(arguments.split()):  # every way to start a program, and what it prints
                yield path.relative_to(ROOT), "".join(programs), shlex.split(arguments, comments=True)


def headings(path):
    lines = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", [*METRICS, *METRIC_HELP])
def test_the_metrics_page_says_what_the_code_says(name):
    page = (ROOT / "docs/metrics.md").read_text().replace("\\|", "|")
    if name in METRICS:
        assert f"| `{name}` | {METRICS[name]} |\n" in page
    else:
        metric = METRIC_HELP[name]
        assert f"| `{name}` | {metric.heading} | {metric.meaning} | {metric.better or '–'} |\n" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            path, _, heading = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not heading or heading in headings(target), link


def test_there_are_commands_to_check():
    assert {program for _, program, _ in commands()} == {*TYPES, "train"}


@pytest.mark.parametrize(
    ("path", "program", "argv"), list(commands()), ids=lambda value: str(value).replace("\n", " ")[:80]
)
def test_commands_are_understood(path, program, argv, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = split(argv).rest
    if program == "reproduce" and setting(argv, "config") is None:  # of prepared data, whose recipe it writes
        argv = ["--config", "recipes/beauty/cpu.yaml", *argv]
    types = (RunArguments, METHODS[setting(argv, "method")][1]) if program == "train" else (TYPES[program],)
    assert len(parse([*argv, "--use_cpu"] if program == "train" else argv, *types)) == len(types)


def test_a_setting_of_training_is_explained_on_one_page():
    kinds = (RunArguments, *(config for _, config in METHODS.values()))
    known = {field.name for kind in kinds for field in fields(kind)}
    explained = {name: set() for name in known}
    for page in sorted((ROOT / "docs").glob("*.md")):
        section = re.search(r"^## Settings that matter\n(.*?)^## ", page.read_text(), re.S | re.M)
        if section and page.stem not in OF_OTHER_PROGRAMS:
            for cell in re.findall(r"^\| ([^|]*) \|", section[1], re.M):
                for name in known & set(re.findall(r"`(\w+)`", cell)):
                    explained[name].add(page.name)
    assert {"samplers": {"sampler.md"}, "rewards": {"reward.md"}}.items() <= explained.items()
    assert {name: pages for name, pages in explained.items() if len(pages) > 1} == {}


def test_the_reward_of_the_page_runs_from_a_folder_of_its_own(catalog, prompts, tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/reward.md").read_text(), re.S)[1]
    (tmp_path / "reward_of_the_page.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    titled = replace(catalog, titles=tuple(f"Film {i} ({1950 + i})" if i else "Film 0" for i in range(48)))
    unseen, era = (load_reward(f"reward_of_the_page:{name}", RewardParts(titled)) for name in ("unseen", "SameEra"))

    none, target = torch.zeros_like(prompts.target), prompts.target
    items = torch.stack([target, (target - 5).clamp(min=0), none, prompts.history[:, -1]], 1)  # [B, 4]
    drawn = Trajectories.from_items(items, catalog.trie.codes(items), "random")
    torch.testing.assert_close(era(prompts, drawn)[2, :3], torch.tensor([1.0, 0.5, 0.0]))  # the target's year is 1957
    everything = torch.arange(48).expand(4, -1)
    torch.testing.assert_close(era.catalog(prompts).gather(1, items), era(prompts, drawn))
    expected = [[item not in row for item in items[i].tolist()] for i, row in enumerate(prompts.history.tolist())]
    assert unseen(prompts, drawn).bool().tolist() == expected and not unseen(prompts, drawn)[:, 3].any()
    total = WeightedSum({"unseen": unseen, "era": era})
    assert total(prompts, Trajectories.from_items(everything, catalog.trie.codes(everything), "random")).shape == (
        4,
        48,
    )


def test_the_neural_and_the_remote_reward_of_the_page_score(catalog, prompts, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reward.md").read_text(), re.S)
    code = next(block for block in blocks if "class ClickModel" in block) + next(
        b for b in blocks if "class Service" in b
    )
    (tmp_path / "rewards_of_the_page.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    net = torch.nn.ModuleList([torch.nn.Embedding(48, 16), head])
    save_model(net, str(tmp_path / "clicks.safetensors"))
    items = torch.stack([prompts.target, prompts.history[:, -1]], 1)  # [B, 2]
    drawn = Trajectories.from_items(items, catalog.trie.codes(items), "random")
    clicks = load_reward("rewards_of_the_page:ClickModel", RewardParts(catalog), weights="clicks.safetensors")
    user = net[0](prompts.history[2][prompts.history[2] >= 0]).mean(0)
    expected = [head(torch.cat([user, net[0](item)])).sigmoid().item() for item in items[2]]
    assert clicks(prompts, drawn)[2].tolist() == pytest.approx(expected, rel=1e-5)

    asked = []

    class Scores(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            scores = [
                [item in known for item in row]
                for row, known in zip(asked[0]["items"], asked[0]["histories"], strict=True)
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"scores": [[float(score) for score in row] for row in scores]}).encode())

    with HTTPServer(("127.0.0.1", 0), Scores) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        scores = load_reward("rewards_of_the_page:Service", RewardParts(catalog), url=url)(prompts, drawn)
    assert scores[:, 1].tolist() == [1.0] * len(items)  # the history's last item
    assert asked[0]["items"][0][0] == catalog.item_ids[prompts.target[0]]


def test_what_the_page_says_of_methods_stands_in_the_comparison():
    methods = json.loads((ROOT / "docs/compare.json").read_text())["methods"]
    claims = re.findall(r"\| `(\w+)` `([\w@]+)` \| ([\d.]+) \| ([\d.]+) \|", (ROOT / "docs/compare.md").read_text())
    assert len(claims) >= 6
    for method, metric, value, baseline in claims:
        for name, said in ((method, value), ("sft_continued", baseline)):
            assert f"{methods[name][metric]['mean']:.{len(said) - 2}f}" == said, (name, metric)


def test_the_table_of_the_results_is_that_of_the_comparison():
    methods = json.loads((ROOT / "docs/compare.json").read_text())["methods"]
    text = (ROOT / "docs/results/ml-100k.md").read_text()
    section = text[text.index("## Which method") : text.index("## What does each setting")]
    for method, metrics in methods.items():
        rows = [line for line in section.splitlines() if line.startswith(f"| {method} | ")]
        assert f"{metrics['recall@10']['mean']:.4f}" in rows[0] and f"{metrics['recall@50']['mean']:.4f}" in rows[0]
