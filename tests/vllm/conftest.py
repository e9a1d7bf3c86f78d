"""Two rollout servers for all tests of this folder; what a test kills is started again for the next."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.vllm.servers import SHAPE, RunningServers


@pytest.fixture(scope="session")
def both_servers(catalog, tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3", vocab_size=len(tokenizer), catalog_fingerprint=catalog.fingerprint, **SHAPE)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    started = RunningServers(model, catalog, tokenizer, tmp_path_factory.mktemp("servers"))
    yield started
    for number in range(2):
        started.kill(number)


@pytest.fixture
def servers(both_servers):
    both_servers.revive()
    return both_servers
