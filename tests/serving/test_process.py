"""recipes/serve.py as it is run: in a process of its own, with many clients, killed, started again and stopped."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import torch

from recommenders import GenerativeRecommender
from recommenders.policy_folder import PolicyRecord, write_record
from tests.vllm.servers import SHAPE

ROOT = Path(__file__).parents[2]
KEY = "a key of more than 16 characters"


@pytest.fixture
def overrides():
    """Of the model's config."""
    return {}


@pytest.fixture
def folder(overrides, make_model, tokenizer, catalog, tmp_path):
    """A self-contained checkpoint."""
    make_model(**overrides).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    write_record(tmp_path / "run", PolicyRecord("sft", max_history=4), catalog, torch.arange(48))
    return tmp_path / "run"


@pytest.fixture
def start(folder, tmp_path):
    """Start a server on a port of its own, and wait for it: process and url."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = []

    def start(*argv, host="127.0.0.1", **environment):
        command = [sys.executable, "recipes/serve.py", "--model", folder, "--host", host, "--port", str(port), *argv]
        settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GFLOWGR_API_KEY": ""} | environment
        log = tmp_path / f"{len(started)}.log"
        with open(log, "wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=file, stderr=file)
        started.append(process)
        end = time.monotonic() + 240
        while f":{port}/recommend" not in log.read_text() and process.poll() is None:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        return process, f"http://127.0.0.1:{port}", log

    yield start
    for process in started:
        process.kill()
        process.wait()


def ask(url, **asked):
    return requests.post(url + "/recommend", json=asked, timeout=60)


@pytest.mark.slow
def test_a_server_answers_many_dies_comes_back_and_finishes_what_it_has(start, folder):
    recommender = GenerativeRecommender.from_pretrained(folder, device="cpu")
    histories = [[f"item{(number * step) % 48}" for step in range(1, 5)] for number in range(60)]
    expected = [list(ranked.items) for ranked in recommender.recommend(histories, 5)]
    process, url, _ = start()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda history: ask(url, history=history, k=5), histories))
    assert [answer.json()["results"][0]["items"] for answer in answers] == expected

    process.kill()
    process.wait()
    with pytest.raises(requests.ConnectionError):
        ask(url, history=histories[0])
    process, url, log = start()
    assert ask(url, history=histories[0], k=5).json()["results"][0]["items"] == expected[0]

    answered = []
    many = threading.Thread(target=lambda: answered.append(ask(url, histories=histories * 17, k=5)))
    many.start()
    while "gflowgr_waiting_histories 0.0" in requests.get(url + "/metrics", timeout=60).text and many.is_alive():
        time.sleep(0.01)
    assert many.is_alive()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, log.read_text()
    many.join()
    assert [row["items"] for row in answered[0].json()["results"]] == expected * 17
    assert "Traceback" not in log.read_text()
    with pytest.raises(requests.ConnectionError):
        ask(url, history=histories[0])


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("overrides", [SHAPE])
def test_vllm_gives_the_lists_of_transformers_to_many_and_stops(start, folder):
    recommender = GenerativeRecommender.from_pretrained(folder, device="cpu")
    histories = [[f"item{(number * step) % 48}" for step in range(1, 5)] for number in range(12)]
    expected = [list(ranked.items) for ranked in recommender.recommend(histories, 5)]
    process, url, log = start("--engine", "vllm")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda history: ask(url, history=history, k=5), histories))
    assert [answer.json()["results"][0]["items"] for answer in answers] == expected
    assert requests.get(url + "/health", timeout=60).json()["engine"] == "vllm"
    for temperature in (1.0, 0.5):
        drawn = {"history": histories[1], "n": 20, "temperature": temperature}
        (row,) = requests.post(url + "/sample", json=drawn, timeout=60).json()["results"]
        assert len(row["items"]) == 20
    assert ask(url, history=["item1"], k=49).status_code == 400
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0 and "Traceback" not in log.read_text()


@pytest.mark.slow
def test_beyond_this_machine_a_key_is_required(start):
    process, _, log = start(host="0.0.0.0")
    assert process.wait(60) == 1 and log.read_text().startswith("error: GFLOWGR_API_KEY ")
    _, url, log = start(host="0.0.0.0", GFLOWGR_API_KEY=KEY)
    assert "not encrypted" in log.read_text()
    assert ask(url, history=["item1"]).status_code == 401
    with_key = {"Authorization": f"Bearer {KEY}"}
    assert requests.get(url + "/health", headers=with_key, timeout=60).json()["engine"] == "transformers"
    process, _, log = start()  # the port is taken
    assert process.wait(60) == 1 and log.read_text().startswith("error: 127.0.0.1:")
