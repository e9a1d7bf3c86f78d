"""What a rollout server's engine is given where nothing is said."""

import pytest

from experiments.rollout_server import engine_settings
from experiments.server_arguments import RolloutServerArguments

SHARE = {"gpu_memory_utilization": 0.9}


@pytest.mark.parametrize(
    ("gpu", "asked", "expected"),
    [
        (True, {}, ("bfloat16", SHARE)),
        (False, {}, ("float32", {})),
        (True, {"dtype": "float32", "engine": {"max_num_seqs": 8}}, ("float32", SHARE | {"max_num_seqs": 8})),
        (True, {"engine": '{"gpu_memory_utilization": 0.5}'}, ("bfloat16", {"gpu_memory_utilization": 0.5})),
        (False, {"dtype": "bfloat16"}, ("bfloat16", {})),
    ],
)  # fmt: skip
def test_a_server_takes_its_gpu_and_half_precision_there(gpu, asked, expected):
    assert engine_settings(RolloutServerArguments(model="run", data="data", **asked), gpu=gpu) == expected
