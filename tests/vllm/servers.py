"""Rollout servers as they are run: recipes/rollout_server.py in processes of their own, with vLLM."""

import copy
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from samplers.rollouts.client import ServerEngine
from samplers.rollouts.engine import WeightMeta
from samplers.rollouts.http_weights import HTTPWeights
from samplers.rollouts.servers import Servers
from samplers.rollouts.weights import PolicySource

ROOT = Path(__file__).parents[2]
KEY = "a key of more than 16 characters"
SHAPE = dict(
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    max_position_embeddings=128,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    tie_word_embeddings=True,
)
"""A small Qwen3: vLLM's attention on a CPU has heads of 32 and 64, not of 8."""
LONGEST = 1 + 20 * 4


def recipe(servers, port):
    command = ["recipes/rollout_server.py", "--port", str(port), "--max_history", "20"]
    return [*command, "--model", servers.folder / "model", "--data", servers.folder / "data"]


def small_model(catalog, tokenizer, **settings):
    torch.manual_seed(0)
    shape = SHAPE | dict(vocab_size=len(tokenizer), catalog_fingerprint=catalog.fingerprint) | settings
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **shape)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


class RunningServers:
    """Two rollout servers from one checkpoint; url a and url b.

    command: (these servers, port) -> what starts one, by default the recipe.
    """

    def __init__(self, model, catalog, tokenizer, folder, command=recipe):
        self.model, self.catalog, self.folder, self.command = model, catalog, folder, command
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        (folder / "model/flow_heads").mkdir()  # as a run has it, and no business of the engine
        save_file({"log_flow.weight": torch.ones(3)}, folder / "model/flow_heads/flow_heads.safetensors")
        catalog.save(folder / "data")
        self.ports = free_ports(2)
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.processes = [self.process(port) for port in self.ports]

    def process(self, port, **environment):
        command = [sys.executable, *self.command(self, port)]
        settings = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "GFLOWGR_API_KEY": KEY,
        } | environment
        with open(self.folder / f"{port}.log", "ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | settings,
                stdout=log,
                stderr=log,
            )

    def log(self, port):
        return (self.folder / f"{port}.log").read_text()

    def wait(self):
        """Return when both answer."""
        end = time.monotonic() + 300
        for process, port in zip(self.processes, self.ports, strict=True):
            while f"http://127.0.0.1:{port}" not in self.log(port):
                assert process.poll() is None and time.monotonic() < end, self.log(port)[-3000:]
                time.sleep(0.2)

    def revive(self):
        """Start again what was killed."""
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                (self.folder / f"{self.ports[number]}.log").unlink()
                self.processes[number] = self.process(self.ports[number])
        self.wait()

    def kill(self, number):
        self.processes[number].kill()
        self.processes[number].wait()

    def engine(self, urls=None, run="run", send=True, **settings):
        known = dict(catalog_fingerprint=self.catalog.fingerprint, vocabulary=self.model.config.vocab_size)
        servers = Servers(urls or self.urls, **(known | dict(key=KEY, longest=LONGEST, timeout=60) | settings))
        sender = HTTPWeights(servers, part_bytes=40_000) if send else None
        return ServerEngine(servers, run=run, levels=self.catalog.trie.levels, sender=sender)

    def loaded(self, urls=None, version=0, **settings):
        """An engine whose servers have the model's weights."""
        engine = self.engine(urls, **settings)
        engine.load(PolicySource(self.model), version)
        engine.confirm_weights()
        return engine


def adapted(model, policy_tokens):
    """A copy with adapters that are not zero, of whose embeddings the codes' rows are trained."""
    from peft import LoraConfig

    from trainer.runtime.adapters import adapt

    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return adapt(copy.deepcopy(model), lora, policy_tokens[1:], checkpointing=False).eval()


def check_adapters_alone(engine, other, model, check):
    """That adapters travel alone once a server keeps the rest, and draws are the policy's; other: of another run."""
    send, named = engine.sender.send, []

    def noted(metas, weights, name):
        named.append([meta.name for meta in metas])
        send(metas, weights, name)

    engine.sender.send = noted
    for version in range(5):
        if version == 3:  # what the server kept is gone
            other.load(PolicySource(model.get_base_model()), version)
        engine.load(PolicySource(model), version)
        engine.confirm_weights()
        check(engine, model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    rows = getattr(parameter, "trained_rows", slice(None))
                    parameter[rows] += 0.1 * torch.randn_like(parameter[rows])
    alone = [all(":" in name for name in names) for names in named]
    assert alone == [False, True, True, False, True]


class Listed:
    """Weights from a list, which is read once; `left`: whether some of it was not."""

    def __init__(self, weights):
        self.weights = list(weights)
        self.rest = iter(self.weights)

    def metadata(self):
        return [WeightMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in self.weights]

    def __iter__(self):
        return self.rest

    @property
    def left(self):
        return next(self.rest, None) is not None


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
