"""Weights by vLLM's own transfer into servers of their own; by gloo, since NCCL needs GPUs."""

import copy
import json
import logging
import os
import subprocess
import sys

import pytest
import torch

from catalog import node_tokens
from catalog.errors import InputError, RunError
from policy import CausalPolicy
from samplers.rollouts.client import ServerEngine
from samplers.rollouts.sampler import RolloutSampler
from samplers.rollouts.servers import Servers
from samplers.rollouts.vllm_weights import Feed, SyncClient, VLLMWeights
from samplers.rollouts.weights import PolicySource
from tests.raising import raises
from tests.vllm.servers import (
    KEY,
    LONGEST,
    ROOT,
    Listed,
    RunningServers,
    adapted,
    check_adapters_alone,
    small_model,
)

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.fixture(scope="module")
def transfer_servers(catalog, tokenizer, tmp_path_factory):
    """Of the first the model's head is tied to its embeddings, of the second it is not, and the same matrix."""
    folder = tmp_path_factory.mktemp("gloo")
    model = small_model(catalog, tokenizer)
    untied = small_model(catalog, tokenizer, tie_word_embeddings=False)
    untied.load_state_dict(model.state_dict())
    untied.save_pretrained(folder / "untied")
    tokenizer.save_pretrained(folder / "untied")

    def command(servers, port):
        kind = "untied" if port == servers.ports[1] else "model"
        return ["tests/vllm/gloo.py", str(port), folder / kind, folder / "data"]

    started = RunningServers(model, catalog, tokenizer, folder, command)
    started.models = [model, untied]
    yield started
    for number in range(2):
        started.kill(number)


@pytest.fixture
def servers(transfer_servers):
    transfer_servers.revive()
    return transfer_servers


def make_engine(servers, urls=None, run="run", **settings):
    from tests.vllm.gloo import BUCKET, join

    known = dict(catalog_fingerprint=servers.catalog.fingerprint, vocabulary=servers.model.config.vocab_size)
    known |= dict(key=KEY, longest=LONGEST, timeout=60, weight_transfer="gloo")
    found = Servers(urls or servers.urls, **(known | settings))
    return ServerEngine(found, run=run, levels=servers.catalog.trie.levels, sender=VLLMWeights(found, join, BUCKET))


@pytest.fixture
def check(servers, tokenizer, prompts):
    """That an engine draws from this model."""

    def holds(engine, model):
        policy = CausalPolicy(model, servers.catalog.trie, node_tokens(tokenizer, servers.catalog.trie))
        found = RolloutSampler(engine, policy).sample(prompts, 16, seed=5)
        torch.testing.assert_close(policy.log_probs(prompts, found.items).log_pf, found.log_pf, atol=1e-4, rtol=1e-4)

    return holds


def moved(model, seed):
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def load(engine, weights, version):
    engine.load(weights, version)
    engine.confirm_weights()


@pytest.mark.parametrize("number", [0, 1], ids=["tied", "untied"])
def test_each_version_of_the_weights_arrives_and_no_other_is_drawn_from(number, servers, check):
    engine = make_engine(servers, [servers.urls[number]])
    for version in range(3):
        model = moved(servers.models[number], version)
        load(engine, PolicySource(model), version)
        check(engine, model)
    other = make_engine(servers, [servers.urls[number]], run="another run")
    load(other, PolicySource(servers.models[number]), 0)
    check(other, servers.models[number])
    with raises(RunError):  # its weights are gone
        engine.sample([[1]], 1, [0])
    load(engine, PolicySource(model), 3)  # a new group
    check(engine, model)


@pytest.mark.parametrize("number", [0, 1], ids=["tied", "untied"])
def test_of_a_run_with_lora_the_adapters_travel_alone(number, servers, check, tokenizer):
    url, tokens = servers.urls[number], node_tokens(tokenizer, servers.catalog.trie)
    model = adapted(servers.models[number], tokens)
    check_adapters_alone(make_engine(servers, [url]), make_engine(servers, [url], run="another"), model, check)


class Failing(Listed):
    """Calls `then` in the middle of the weights."""

    def __init__(self, weights, then):
        super().__init__(weights)
        self.rest = self.failing(then)

    def failing(self, then):
        for place, (name, weight) in enumerate(self.weights):
            if place == len(self.weights) // 2:
                then()
            yield name, weight


def test_a_server_killed_in_the_middle_of_a_transfer_is_left_out_and_joins_again(servers, check, caplog):
    caplog.set_level(logging.INFO, logger="samplers.rollouts")
    engine, untied = make_engine(servers), servers.models[1]
    load(engine, PolicySource(untied), 0)
    check(engine, untied)
    load(engine, Failing(PolicySource(untied), lambda: servers.kill(1)), 1)
    assert list(engine.servers.down) == [servers.urls[1]] and f"arrive at {servers.urls[1]}" in caplog.text
    check(engine, untied)
    servers.revive()
    load(engine, PolicySource(untied), 2)
    assert not engine.servers.down and f"{servers.urls[1]} is back" in caplog.text
    check(engine, untied)


def test_weights_that_do_not_fit_are_refused_and_leave_nothing_behind(servers, check, caplog):
    model = servers.models[1]
    engine = make_engine(servers, [servers.urls[1]])
    pairs = [(name, weight.detach()) for name, weight in PolicySource(model)]

    class OtherDtype(Listed):
        def metadata(self):
            *first, last = super().metadata()
            return [*first, last._replace(dtype=torch.float64)]

    half = len(pairs) // 2
    wrong = {
        "or parameter named 'no'": Listed([*pairs[:half], ("model.no.such.weight", torch.ones(3)), *pairs[half:]]),
        "could not be taken over": Listed([(name, weight[:1]) for name, weight in pairs]),
        "disagrees": OtherDtype(pairs),
    }
    for version, (word, weights) in enumerate(wrong.items()):
        caplog.clear()
        engine.load(weights, version)
        assert not weights.left and word in caplog.text
        with raises(RunError):
            engine.confirm_weights()
        load(engine, PolicySource(model), 10 + version)
        check(engine, model)


def test_a_server_gives_up_a_transfer_whose_sender_falls_silent(servers, check):
    """The sender joins, and then sends nothing."""
    from tests.vllm.gloo import join

    engine, model = make_engine(servers, [servers.urls[1]]), servers.models[1]
    client = SyncClient(engine.servers, servers.urls[1])
    group = join(client, Feed([]), 1)
    client.start_weight_update()
    asked = {"update_info": {"names": ["x"], "dtype_names": ["float32"], "shapes": [[3]]}, "seconds": 0.5}
    with raises(InputError) as error:
        engine.servers.call(servers.urls[1], "POST", "/update_weights", json.dumps(asked).encode(), retries=0)
    assert "400" in str(error.value) and group.model_update_group
    load(engine, PolicySource(model), 0)
    check(engine, model)


def test_a_run_sharded_by_zero_3_sends_from_its_first_process(servers, tmp_path):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "tests/vllm/transfer_worker.py"]
    settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    arguments = [servers.folder / "untied", servers.folder / "data", servers.urls[1], tmp_path / "result.json"]
    done = subprocess.run(
        [sys.executable, *command, *arguments], cwd=ROOT, env=os.environ | settings, timeout=240, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metadata"] and result["gathered"] == 0  # known without a gather
    assert result["difference"] < 1e-4 and result["moved"] > 0.01


def test_quantized_weights_are_refused_where_new_ones_would_not_be_quantized(catalog, tmp_path):
    from samplers.rollouts.vllm_engine import VLLMEngine

    catalog.save(tmp_path)
    with raises(InputError, field="vllm_engine", value="fp8"):
        VLLMEngine(tmp_path, tmp_path, longest=5, dtype="float32", settings={"quantization": "fp8"})


def test_a_server_of_another_way_is_refused_at_the_start(servers):
    with raises(InputError, field="weight_transfer", value="nccl"):
        make_engine(servers, weight_transfer="nccl")
