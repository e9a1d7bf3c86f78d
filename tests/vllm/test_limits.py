"""What a rollout server and its client refuse of each other, with an engine that only answers."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests
import torch
from safetensors.torch import save

from catalog.errors import InputError, RunError
from samplers.rollouts.client import ServerEngine
from samplers.rollouts.http_client import request
from samplers.rollouts.http_weights import HTTPWeights
from samplers.rollouts.servers import MOST_PROMPTS, Servers
from samplers.rollouts.wire import PART_BYTES
from tests import http_server
from tests.raising import raises
from tests.vllm.servers import Listed

pytestmark = pytest.mark.vllm  # which brings uvicorn and fastapi

KEY, VOCABULARY, LONGEST, LEVELS = "a key of more than 16 characters", 50, 20, 4
HEADER = {"Authorization": f"Bearer {KEY}"}
SAMPLE = {"version": "run:0", "prompts": [[1, 2], [3]], "count": 2, "seeds": [0, 1]}
EXTEND = {"version": "run:0", "prompts": [[1, 2], [3, 4]], "prefix": 1, "width": 2}


class Engine:
    """Answers what `spoil` makes of a right draw; of weights it takes those called `right`."""

    version, dtype = 0, torch.float32

    def __init__(self, spoil=lambda tokens, log_pf: (tokens, log_pf)):
        self.spoil, self.asked = spoil, []

    def load(self, weights, version):
        assert dict(weights).keys() == {"right"}

    def sample(self, prompts, count, seeds):
        return self._draw(len(prompts), count, LEVELS)

    def extend(self, prompts, prefix, width):
        return self._draw(len(prompts), width)

    def _draw(self, *shape):
        self.asked.append(shape)
        return self.spoil(torch.ones(shape, dtype=torch.long), torch.full(shape, -1.0))


def served(engine, catalog):
    """A context with the url of the real app around an engine."""
    from samplers.rollouts.server import make_app

    return http_server.served(make_app(engine, key=KEY, catalog=catalog, vocabulary=VOCABULARY, longest=LONGEST))


@contextmanager
def raw(catalog, answer):
    """The url of a server that is healthy, takes weights and writes the chunks of `answer` to everybody who draws."""
    health = {"version": "run:0", "catalog_fingerprint": catalog.fingerprint, "vocabulary": VOCABULARY}
    right = json.dumps(health | {"longest": LONGEST, "dtype": "float32"}).encode()

    def serve(connection):
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            post = head.startswith(b"POST")
            try:
                for chunk in answer() if post else [ok(right)]:
                    connection.sendall(chunk)
            except OSError:  # the client has left
                pass

    def accept():
        while True:
            try:
                threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def ok(content, length=None):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content) if length is None else length, content)


def slowly(content):
    for byte in content:
        yield bytes([byte])
        time.sleep(0.2)


@pytest.fixture
def client(catalog):
    def make(*urls, **settings):
        known = dict(catalog_fingerprint=catalog.fingerprint, vocabulary=VOCABULARY, longest=LONGEST, key=KEY)
        servers = Servers(urls, **(known | dict(timeout=1.5) | settings))
        engine = ServerEngine(servers, run="run", levels=LEVELS, sender=HTTPWeights(servers, part_bytes=64))
        engine.load(Listed([("right", torch.ones(2))]), 0)
        engine.confirm_weights()
        return engine

    return make


@pytest.fixture
def good(catalog):
    engine = Engine()
    with served(engine, catalog) as url:
        yield engine, url


def test_a_bad_request_is_told_and_never_reaches_the_engine(good, client, catalog):
    engine, url = good
    client(url)
    widest = max(catalog.trie.max_children)
    bad = [
        ("/sample", {"prompts": [[1], [VOCABULARY]]}),
        ("/sample", {"prompts": [[1], [2**70]]}),
        ("/sample", {"prompts": [[1], [-1]]}),
        ("/sample", {"prompts": [[1], []]}),
        ("/sample", {"prompts": [[1], [1] * (LONGEST + 1)]}),
        ("/sample", {"prompts": [[1], [1.5]]}),
        ("/sample", {"prompts": [[1], ["1"]]}),
        ("/sample", {"prompts": [[1], [True]]}),
        ("/sample", {"prompts": []}),
        ("/sample", {"prompts": [[1]] * (MOST_PROMPTS + 1), "seeds": [0] * (MOST_PROMPTS + 1)}),
        ("/sample", {"prompts": [[1]] * 1000, "seeds": [0] * 1000, "count": 1000}),
        ("/sample", {"seeds": [0]}),
        ("/sample", {"seeds": [0, 2**62]}),
        ("/sample", {"seeds": [0, -1]}),
        ("/sample", {"count": 0}),
        ("/sample", {"count": 10**9}),
        ("/sample", {"count": 2**70}),
        ("/sample", {"more": 1}),
        ("/extend", {"width": 10**9}),
        ("/extend", {"width": widest + 1}),
        ("/extend", {"width": 0}),
        ("/extend", {"prefix": LEVELS}),
        ("/extend", {"prefix": 2**70}),
        ("/extend", {"prefix": -1}),
        ("/extend", {"prefix": 2}),  # as long as the prompt
    ]
    for path, change in bad:
        asked = {"/sample": SAMPLE, "/extend": EXTEND}[path] | change
        answer = requests.post(url + path, json=asked, headers=HEADER, timeout=5)
        assert answer.status_code == 400 and len(answer.text) < 400, change
    for content in (b"[" * 50_000, b"\xff{", b"1" * 5000, b"null", b"{}"):
        kind = HEADER | {"Content-Type": "application/json"}
        assert requests.post(url + "/sample", data=content, headers=kind, timeout=5).status_code == 400
    assert engine.asked == []
    for path, right in (("/sample", SAMPLE), ("/extend", EXTEND)):
        assert requests.post(url + path, json=right, headers=HEADER, timeout=5).status_code == 200


def test_weights_that_are_not_the_model_s_are_told_and_others_taken(good, client):
    url = good[1]

    def post(**change):
        asked = {"version": "x", "part_bytes": 64, "names": ["wrong"], "dtypes": ["float32"], "shapes": [[4]]}
        return requests.post(url + "/weights", json=asked | change, headers=HEADER, timeout=5).status_code

    assert post() == 200
    params = {"version": "x", "part": 0}
    assert requests.put(url + "/weights", params=params, data=bytes(16), headers=HEADER, timeout=5).status_code == 400
    assert requests.post(url + "/sample", json=SAMPLE, headers=HEADER, timeout=5).status_code == 409
    assert post(part_bytes=PART_BYTES + 16) == 400
    engine = client(url)
    engine.load(Listed([("wrong", torch.ones(2))]), 1)
    with raises(RunError):
        engine.confirm_weights()
    assert client(url).sample([[1]], 1, [0])[0].shape == (1, 1, LEVELS)


def test_a_body_is_bounded_in_size_however_it_is_sent_and_in_time(good, monkeypatch):
    engine, url = good
    monkeypatch.setattr("serving.http_limits.BODY_SECONDS", 0.5)
    for send in (requests.post, requests.put):
        assert send(url + "/sample", data=bytes(10**6), headers=HEADER, timeout=5).status_code == 413
        assert send(url + "/sample", data=iter([bytes(10**5)] * 9), headers=HEADER, timeout=5).status_code == 413
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=5) as connection:
        head = f"POST /sample HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n{{"
        connection.sendall(head.encode())
        assert b" 408 " in connection.recv(100)
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=5) as connection:
        connection.sendall(head.replace(KEY, "none").encode())
        assert b" 401 " in connection.recv(100)  # at once, and the body is not waited for
    assert time.monotonic() - started < 3


def test_half_sent_heads_are_closed_and_shut_nobody_out(good, monkeypatch):
    monkeypatch.setattr("serving.http_limits.HEAD_SECONDS", 2)
    url = good[1]
    port = int(url.rsplit(":")[-1])
    half = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(300)]
    for connection in half:
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        except OSError:  # closed already, for those that came later
            pass
    with requests.Session() as session:  # the second request comes over the same connection
        for _ in range(2):
            assert session.get(url + "/health", headers=HEADER, timeout=5).status_code == 200
    time.sleep(2.5)
    for connection in half:
        try:
            assert connection.recv(100) == b""
        except ConnectionResetError:
            pass
        connection.close()


SPOILED = {
    "another shape": lambda tokens, log_pf: (tokens[:, :1], log_pf),
    "fewer rows": lambda tokens, log_pf: (tokens[1:], log_pf[1:]),
    "another dtype": lambda tokens, log_pf: (tokens.int(), log_pf),
    "half precision": lambda tokens, log_pf: (tokens, log_pf.half()),
    "a token that there is not": lambda tokens, log_pf: (tokens * VOCABULARY, log_pf),
    "a token below 0": lambda tokens, log_pf: (-tokens, log_pf),
    "NaN": lambda tokens, log_pf: (tokens, log_pf * torch.nan),
    "impossible draws": lambda tokens, log_pf: (tokens, log_pf * torch.inf),
    "probabilities above 1": lambda tokens, log_pf: (tokens, -log_pf),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_server_whose_draws_cannot_be_is_left_out(name, good, client, catalog, caplog):
    with served(Engine(SPOILED[name]), catalog) as bad:
        engine = client(bad, good[1])
        tokens, log_pf = engine.sample([[1], [2], [3]], 2, [0, 1, 2])
        assert tokens.shape == log_pf.shape == (3, 2, LEVELS) and (tokens == 1).all() and (log_pf == -1).all()
        (warning,) = [record.getMessage() for record in caplog.records if record.name == "samplers.rollouts.servers"]
        assert bad in warning and good[1] not in warning
        with raises(RunError):
            client(bad).sample([[1]], 2, [0])


def endless():
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + bytes(65536) + b"\r\n"


RAW = {
    "no HTTP": lambda: [b"hello\r\n\r\n"],
    "nothing": lambda: [],
    "garbage": lambda: [ok(bytes(range(256)))],
    "other tensors": lambda: [ok(save({"tokens": torch.ones(2, 2, LEVELS, dtype=torch.long)}))],
    "half an answer": lambda: [ok(b"abc", length=100)],
    "too large an answer": endless,
    "an announced size that is none": lambda: [ok(b"", length=-5)],
    "a head of a byte at a time": lambda: slowly(ok(b"abc")),
    "a body of a byte at a time": lambda: slow_body(),
    "a failure": lambda: [b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"],
    "somewhere else": lambda: [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"],
}


def slow_body():
    yield ok(b"", length=1000)
    yield from slowly(bytes(1000))


@pytest.mark.parametrize("name", RAW)
def test_a_server_that_answers_no_draw_is_left_out_in_time(name, good, client, catalog):
    with raw(catalog, RAW[name]) as bad:
        engine = client(bad, good[1])
        started = time.monotonic()
        assert engine.sample([[1], [2], [3]], 2, [0, 1, 2])[0].shape == (3, 2, LEVELS)
        assert time.monotonic() - started < 4 and list(engine.servers.down) == [bad]


def test_what_waits_for_a_busy_engine_is_drawn_in_one_batch_as_it_would_be_alone(client, catalog):
    engine, free = Engine(), threading.Event()

    def by_seed(prompts, count, seeds):
        tokens, log_pf = engine._draw(len(prompts), count, LEVELS)
        free.wait(10)
        return tokens * torch.tensor(seeds).view(-1, 1, 1), log_pf

    engine.sample = by_seed
    with served(engine, catalog) as url, ThreadPoolExecutor(17) as threads:
        asking = client(url, timeout=10)
        first = threads.submit(asking.sample, [[1]], 2, [0])
        while not engine.asked:
            time.sleep(0.01)
        others = [threads.submit(asking.sample, [[1]] * 3, 2, [place] * 3) for place in range(16)]
        time.sleep(0.3)
        free.set()
        assert all((one.result()[0] == place).all() for place, one in enumerate(others)) and first.result()
    assert [shape[0] for shape in engine.asked] == [1, 48]


def test_a_body_may_take_longer_than_the_connection(monkeypatch):
    monkeypatch.setattr("samplers.rollouts.http_client.CONNECT_SECONDS", 0.2)

    def read_late():
        with listener.accept()[0] as connection:
            time.sleep(0.6)
            left = 4_000_000
            while left > 0:
                left -= len(connection.recv(2**20))
            connection.sendall(ok(b"yes"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=read_late, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        answer = request("PUT", url, {}, memoryview(bytes(4_000_000)), timeout=5, largest=10, retries=0)
    assert answer.content == b"yes"


def test_many_prompts_go_in_several_requests(good, client):
    engine, url = good
    count = 2 * MOST_PROMPTS + 5
    assert client(url).sample([[1]] * count, 1, range(count))[0].shape == (count, 1, LEVELS)
    assert client(url).extend([[1, 2]] * 3, 1, 2)[0].shape == (3, 2)
    assert [shape[0] for shape in engine.asked] == [MOST_PROMPTS, MOST_PROMPTS, 5, 3]


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://:80", "http://host:port", "http://host:99999", ""]
)
def test_what_is_no_url_is_told(url, client):
    with raises(InputError, field="vllm_server_base_url", value=url):
        client(url)


def test_what_is_no_rollout_server_is_told(client, catalog):
    with raw(catalog, lambda: []) as url, raises(InputError):
        client(url, catalog_fingerprint="other")
    with raises(InputError):
        client("http://127.0.0.1:9", key="schlüssel")
    with socket.create_server(("127.0.0.1", 0)) as silent, raises(RunError):
        client(f"http://127.0.0.1:{silent.getsockname()[1]}")
