"""docs/serving_vllm.md as it is written: vLLM's own server with the trie inside, and the page's requests."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from catalog import Catalog, node_tokens, word_tokenizer
from policy import CausalPolicy, inference
from tests.vllm.servers import ROOT, SHAPE, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

PAGE = (ROOT / "docs/serving_vllm.md").read_text()
ADDRESS = "127.0.0.1:8000"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


class Served:
    """The page's files, made small, and the page's server on them."""

    def __init__(self, folder):
        codes = np.unique(np.random.default_rng(0).integers(0, [8, 9, 10], (300, 3)), axis=0)[:200]
        self.folder = folder
        self.catalog = Catalog.from_codes(
            [str(i) for i in range(200)], np.c_[codes, np.zeros(200, int)], sizes=(8, 9, 10, 1)
        )
        tokenizer = word_tokenizer(self.catalog.trie.sizes)
        shape = SHAPE | {"max_position_embeddings": 256, "catalog_fingerprint": self.catalog.fingerprint}
        config = AutoConfig.for_model("qwen3", vocab_size=len(tokenizer), **shape)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        model.generation_config.update(temperature=0.1, do_sample=True)  # must not reach the draws
        for part in (model, tokenizer):
            part.save_pretrained(folder / "runs/demo/gflownet")
        self.catalog.save(folder / "runs/demo/gflownet/catalog")
        tokens = node_tokens(tokenizer, self.catalog.trie)
        self.policy = CausalPolicy(model, self.catalog.trie, tokens)
        self.items = {tuple(path) for path in tokens[self.catalog.trie.path(torch.arange(200))[:, 1:]].tolist()}
        self.address = f"127.0.0.1:{free_ports(1)[0]}"

    def start(self):
        command = blocks("bash")[0].replace("\\\n", "").replace("8000", self.address.split(":")[1])
        program, *arguments = shlex.split(command)
        assert program == "python"
        environment = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "PYTHONPATH": str(ROOT)}
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, process):
        end = time.monotonic() + 240
        while True:
            try:
                return urlopen(f"http://{self.address}/health").close()
            except URLError:
                assert process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()[-3000:]
                time.sleep(0.5)

    def choices(self, asked):
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"http://{self.address}/v1/completions", json.dumps(asked).encode(), headers)) as answer:
            return json.load(answer)["choices"]

    def legal(self, **asked):
        """Whether each choice is an item of the catalog."""
        shared = {"model": "policy", "prompt": [[1, 4], [1, 5]], "max_tokens": 4, "return_token_ids": True, "seed": 1}
        return [tuple(choice["token_ids"]) in self.items for choice in self.choices(shared | asked)]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    one = Served(tmp_path_factory.mktemp("served"))
    process = one.start()
    try:
        one.wait(process)
        yield one
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_the_pages_script_draws_items_with_the_policys_log_probabilities(served, monkeypatch, capsys):
    monkeypatch.chdir(served.folder)
    (code,) = blocks("python")
    found: dict = {}
    exec(code.replace(ADDRESS, served.address), found)
    assert all(tuple(tokens) in served.items for tokens in found["tokens"].tolist())
    items = torch.tensor(found["items"]).view(2, 8)
    with inference(served.policy.model):
        expected = served.policy.log_probs(found["batch"], items).log_pf.sum(-1)
    torch.testing.assert_close(torch.tensor(found["log_pf"]).view(2, 8), expected, atol=1e-4, rtol=0)
    assert len(capsys.readouterr().out.splitlines()) == 16 and len(items.unique()) > 4


def test_the_pages_curl_is_answered_with_items(served):
    command = shlex.split(next(block for block in blocks("bash") if block.startswith("curl")))
    choices = served.choices(json.loads(command[-1]))
    tokenizer = word_tokenizer(served.catalog.trie.sizes)
    assert len(choices) == 4
    for choice in choices:
        assert tuple(tokenizer(choice["text"], add_special_tokens=False)["input_ids"]) in served.items


def test_what_is_drawn_follows_the_request(served):
    assert all(served.legal(n=50, ignore_eos=True, vllm_xargs={"trie": 0}))
    assert all(served.legal(n=50, ignore_eos=True, vllm_xargs={"trie": 0}, temperature=2.0))
    assert sum(served.legal(n=50, ignore_eos=True)) == 0
    assert sum(served.legal(n=10, ignore_eos=True, vllm_xargs={"trie": 0}, use_beam_search=True)) == 0


def test_the_command_for_gpus_names_the_other_processor():
    from samplers.rollouts import constraint

    names = [re.search(r"--logits-processors \S+:(\w+)", block) for block in blocks("bash")[:2]]
    kinds = [getattr(constraint, name[1]) for name in names]
    assert issubclass(kinds[0], constraint.LogitsProcessor) and issubclass(kinds[1], constraint.LogitsProcessorV2)
