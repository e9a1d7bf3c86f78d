"""Rollout servers: what they draw, what they refuse, and what happens when they are killed."""

import copy
import logging
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import torch

from catalog import node_tokens
from catalog.errors import InputError, RunError
from interactions import PromptBuilder
from policy import CausalPolicy
from samplers.rollouts.sampler import RolloutSampler
from samplers.rollouts.weights import PolicySource
from tests.raising import raises
from tests.vllm.servers import KEY, LONGEST, Listed, adapted, check_adapters_alone, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

DRAWS = 200


@pytest.fixture
def tokens(prompts):
    """The prompts as the engine gets them."""
    return prompts.token_lists()


@pytest.fixture
def many(catalog, tokenizer):
    """64 prompts: seconds of work with DRAWS each."""
    rng = np.random.default_rng(2)
    rows = [{"history": rng.integers(0, 48, n % 20 + 1).tolist(), "target": 0} for n in range(64)]
    return PromptBuilder(catalog, tokenizer, 20)(rows).token_lists()


def test_servers_draw_from_the_policy_whose_weights_they_were_sent(servers, catalog, tokenizer, prompts):
    model = copy.deepcopy(servers.model)
    policy = CausalPolicy(model, catalog.trie, node_tokens(tokenizer, catalog.trie))
    engine = servers.engine()
    assert engine.dtype == torch.float32 and engine.version == -1
    draws, beams = RolloutSampler(engine, policy), RolloutSampler(engine, policy, beams=True)
    for version in range(3):
        engine.load(PolicySource(model), version)
        engine.confirm_weights()
        found = draws.sample(prompts, 16, seed=5)
        torch.testing.assert_close(policy.log_probs(prompts, found.items).log_pf, found.log_pf, atol=1e-4, rtol=1e-4)
        best, score = policy.beam(prompts, 10)
        searched = beams.sample(prompts, 10, seed=0)
        assert torch.equal(searched.items, best)
        torch.testing.assert_close(searched.log_pf.sum(-1), score, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))


def test_of_a_run_with_lora_the_adapters_travel_alone(servers, catalog, tokenizer, prompts):
    tokens = node_tokens(tokenizer, catalog.trie)

    def check(engine, model):
        policy = CausalPolicy(model, catalog.trie, tokens)
        found = RolloutSampler(engine, policy).sample(prompts, 16, seed=5)
        torch.testing.assert_close(policy.log_probs(prompts, found.items).log_pf, found.log_pf, atol=1e-4, rtol=1e-4)

    check_adapters_alone(servers.engine(), servers.engine(run="another"), adapted(servers.model, tokens), check)


def test_a_draw_does_not_depend_on_the_server(servers, tokens):
    seeds = [11, 12, 13, 2**61]
    both = servers.loaded().sample(tokens, 8, seeds)
    for urls in ([servers.urls[0]], [servers.urls[1]], servers.urls[::-1]):
        drawn = servers.loaded(urls).sample(tokens, 8, seeds)
        assert torch.equal(drawn[0], both[0])
        torch.testing.assert_close(drawn[1], both[1], atol=1e-5, rtol=1e-5)
    alone = servers.loaded().sample(tokens[:1], 8, seeds[:1])  # fewer prompts than servers
    assert torch.equal(alone[0], both[0][:1])
    assert not torch.equal(servers.loaded().sample(tokens, 8, [1, 2, 3, 4])[0], both[0])


def test_a_process_that_does_not_send_draws_with_what_another_sent(servers, tokens):
    sender, other = servers.engine(), servers.engine(send=False)
    taken = Listed(PolicySource(servers.model))
    other.load(taken, 7)
    assert not taken.left  # gathering weights is collective
    sender.load(PolicySource(servers.model), 7)
    other.confirm_weights()
    assert torch.equal(other.sample(tokens, 4, range(4))[0], other.sample(tokens, 4, range(4))[0])


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"key": "another key of 16 characters"}, InputError),
        ({"catalog_fingerprint": "0123"}, InputError),
        ({"vocabulary": 7}, InputError),
        ({"longest": 500}, InputError),
        ({"urls": [f"http://127.0.0.1:{free_ports(1)[0]}"]}, RunError),
        ({"urls": ["127.0.0.1:8000"]}, InputError),
    ],
)
def test_a_server_that_does_not_fit_is_told_at_the_start(servers, wrong, kind):
    with raises(kind) as error:
        servers.engine(**wrong)
    assert str(error.value).count("\n") == 0 and "127.0.0.1" in str(error.value)


def test_what_the_engine_refuses_is_told_and_drops_no_server(servers, tokens):
    engine = servers.loaded()
    with raises(InputError):
        engine.sample([*tokens, [5] * (LONGEST + 1)], 2, range(5))
    with raises(InputError):
        engine.sample([*tokens, [10**6]], 2, range(5))
    for seed in (2**62, 2**70):
        with raises(InputError):
            engine.sample(tokens, 2, [1, 2, 3, seed])
    with raises(InputError):
        engine.extend(tokens, 0, 10**9)
    assert engine.sample(tokens, 2, [1, 2, 3, 2**62 - 1])[0].shape == (4, 2, 4)


def test_weights_of_another_model_are_told_and_the_right_ones_taken(servers, tokens):
    engine = servers.loaded()
    expected = engine.sample(tokens, 2, range(4))[0]
    name, weight = next(servers.model.named_parameters())
    for wrong in ([("no.such.weight", weight)], [(name, weight[:, :3])]):
        engine.load(Listed(wrong), 1)
        with raises(RunError):
            engine.confirm_weights()
    engine.load(PolicySource(servers.model), 2)
    engine.confirm_weights()
    assert torch.equal(engine.sample(tokens, 2, range(4))[0], expected)


def test_nothing_is_told_without_the_key_and_nothing_is_unpickled(servers):
    url, header = servers.urls[0], {"Authorization": f"Bearer {KEY}"}
    for path in ("/health", "/sample", "/docs", "/openapi.json", "/none"):
        for given in ({}, {"Authorization": KEY}, {"Authorization": f"Bearer {KEY}x"}):
            assert requests.post(url + path, headers=given, timeout=10).status_code == 401
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert requests.get(url + path, headers=header, timeout=10).status_code == 404

    def begin(version, **change):
        asked = {"version": version, "part_bytes": 16, "names": ["x"], "dtypes": ["float32"], "shapes": [[8]]}
        return requests.post(url + "/weights", json=asked | change, headers=header, timeout=10).status_code

    def put(version, part, body=bytes(16)):
        params = {"version": version, "part": part}
        return requests.put(url + "/weights", params=params, data=body, headers=header, timeout=10).status_code

    def held():
        return requests.get(url + "/health", headers=header, timeout=10).json()["version"]

    for wrong in ({"dtypes": ["Tensor"]}, {"dtypes": []}, {"part_bytes": 17}, {"shapes": [[-1]]}, {"names": []}):
        assert begin("x:1", **wrong) == 400
    assert put("x:1", 0) == 409  # not begun
    assert begin("x:1") == 200 and held() is None
    assert put("x:1", 0, b"\x80\x04cposix\nsystem\n.") == 400  # another size
    assert put("x:1", 1) == 409  # part 0 went to a server that was killed
    assert put("x:2", 0) == 409
    assert put("x:1", 0) == 200 and put("x:1", 0) == 200  # its answer was lost
    assert put("x:1", 1) == 400 and held() is None  # the model has no x
    name, weight = next(servers.model.named_parameters())
    rows = dict(names=[name], shapes=[list(weight.shape)], part_bytes=2**26)
    assert begin("x:3", **rows) == 200 and put("x:3", 0, weight.detach().numpy().tobytes()) == 200
    assert held() == "x:3" and put("x:3", 1) == 409 and held() == "x:3"


def test_the_program_says_what_is_missing_before_it_starts_an_engine(servers):
    port = free_ports(1)[0]
    wrong = {
        servers.ports[0]: servers.process(servers.ports[0]),
        port: servers.process(port, GFLOWGR_API_KEY="short"),
    }
    assert [process.wait(60) for process in wrong.values()] == [1, 1]
    last = {port: servers.log(port).splitlines()[-1] for port in wrong}
    assert f"127.0.0.1:{servers.ports[0]} cannot be served: Address already in use" in last[servers.ports[0]]
    assert "GFLOWGR_API_KEY must hold at least 16" in last[port] and "secrets.token_hex" in last[port]
    assert not any(word in servers.log(port) for port in wrong for word in ("Traceback", "EngineCore"))


def test_another_run_that_takes_the_servers_stops_this_one(servers, tokens, caplog):
    first = servers.loaded(run="first")
    servers.loaded(run="second")
    with raises(RunError):
        first.sample(tokens, 2, range(4))
    assert all(url in caplog.text for url in servers.urls)
    first.load(PolicySource(servers.model), 1)
    first.confirm_weights()
    assert first.sample(tokens, 2, range(4))[0].shape == (4, 2, 4)


def test_a_server_that_hangs_is_left_out_after_the_time_limit(servers, tokens, caplog):
    engine = servers.loaded(timeout=3)
    expected = engine.sample(tokens, 4, range(4))[0]
    servers.processes[0].send_signal(signal.SIGSTOP)
    started = time.monotonic()
    drawn = engine.sample(tokens, 4, range(4))[0]
    waited = time.monotonic() - started
    servers.processes[0].send_signal(signal.SIGCONT)  # it now finishes what nobody waits for
    assert torch.equal(drawn, expected) and waited < 10
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "samplers.rollouts.servers"]
    assert f"{servers.urls[0]} does not answer" in warning and "timed out" in warning
    engine.load(PolicySource(servers.model), 1)
    engine.confirm_weights()
    assert torch.equal(engine.sample(tokens, 4, range(4))[0], expected) and not engine.servers.down


def test_a_server_may_be_killed_and_come_back(servers, many, caplog):
    caplog.set_level(logging.INFO, logger="samplers.rollouts")
    engine, seeds = servers.loaded(), range(0, 64_000, 1000)
    whole = servers.loaded([servers.urls[0]]).sample(many, DRAWS, seeds)
    with ThreadPoolExecutor(1) as threads:
        drawing = threads.submit(engine.sample, many, DRAWS, seeds)
        time.sleep(0.3)
        assert not drawing.done()
        servers.kill(1)
        drawn = drawing.result(60)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "samplers.rollouts.servers"]
    assert servers.urls[1] in warning and servers.urls[0] not in warning
    assert drawn[0].shape == (64, DRAWS, 4)
    # rounding differs between batches of other sizes and may tip a draw in some ten thousand
    same = (drawn[0] == whole[0]).all(-1)
    assert same.float().mean() > 0.999
    torch.testing.assert_close(drawn[1][same], whole[1][same], atol=1e-5, rtol=1e-5)

    def next_version():
        caplog.clear()
        engine.load(PolicySource(servers.model), engine.version + 1)
        engine.confirm_weights()
        assert torch.equal(engine.sample(many[:4], 4, range(4))[0], expected)
        return [record.getMessage() for record in caplog.records if record.name.startswith("samplers.rollouts")]

    expected = engine.sample(many[:4], 4, range(4))[0]
    assert next_version() == []  # the one that is dead is no news
    with raises(RunError):
        servers.engine()
    servers.revive()
    assert torch.equal(engine.sample(many[:4], 4, range(4))[0], expected)
    assert next_version() == [f"The rollout server {servers.urls[1]} is back."]


def test_without_any_server_a_run_ends(servers, many):
    engine = servers.loaded()
    with ThreadPoolExecutor(1) as threads:
        drawing = threads.submit(engine.sample, many, DRAWS, range(64))
        time.sleep(0.3)
        assert not drawing.done()
        servers.kill(0)
        servers.kill(1)
        with raises(RunError):
            drawing.result(30)
    taken = Listed(PolicySource(servers.model))
    engine.load(taken, 1)
    assert not taken.left
    with raises(RunError):
        engine.confirm_weights()
