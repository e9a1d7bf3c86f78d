"""Two rollout servers for all tests of this folder; what a test kills is started again for the next."""

import pytest

from tests.vllm.servers import RunningServers, small_model


@pytest.fixture(scope="session")
def both_servers(catalog, tokenizer, tmp_path_factory):
    model = small_model(catalog, tokenizer)
    started = RunningServers(model, catalog, tokenizer, tmp_path_factory.mktemp("servers"))
    yield started
    for number in range(2):
        started.kill(number)


@pytest.fixture
def servers(both_servers):
    both_servers.revive()
    return both_servers
