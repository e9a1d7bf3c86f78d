"""Which ways of the weights a run may choose."""

from types import SimpleNamespace

import pytest
import torch

from catalog.errors import InputError
from tests.raising import raises
from trainer import GFlowNetConfig
from trainer.runtime.engine import check_transfer


@pytest.mark.parametrize(
    ("transfer", "device", "processes", "url", "reason"),
    [
        ("nccl", "cpu", 1, "http://127.0.0.1:8000", "sends from a GPU"),
        ("ipc", "cpu", 1, "http://127.0.0.1:8000", "sends from a GPU"),
        ("ipc", "cuda", 2, "http://127.0.0.1:8000", "one process"),
        ("ipc", "cuda", 1, "http://elsewhere:8000", "on this machine"),
    ],
)
def test_a_transfer_that_cannot_serve_a_run_is_refused(transfer, device, processes, url, reason, tmp_path):
    settings = dict(use_vllm=True, vllm_mode="server", vllm_server_base_url=url, weight_transfer=transfer)
    args = GFlowNetConfig(output_dir=str(tmp_path), use_cpu=True, **settings)
    with raises(InputError, field="weight_transfer", value=transfer) as error:
        check_transfer(args, SimpleNamespace(device=torch.device(device), num_processes=processes))
    assert reason in str(error.value)
