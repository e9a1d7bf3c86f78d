"""Every rank gets the weights of a checkpoint out of DDP, ZeRO and FSDP2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("weights_worker.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found: {case: result}. One launch, since nearly all its time goes into imports."""
    out = tmp_path_factory.mktemp("weights")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", WORKER, out]
    subprocess.run(command, check=True, timeout=240, env=environment)
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_names_and_values_are_those_of_a_plain_model_trained_alone(ranks):
    for results in ranks:
        assert len(results) == 13
        for case, result in results.items():
            assert all(step["names"] for step in result["steps"]), case
            before, *after = (step["difference"] for step in result["steps"])
            assert before == 0 and len(after) == 2 and max(after) < 3e-6, (case, after)
            assert result["moved"] > 0.05 and result["buckets"] > 5, case


def test_a_server_merges_from_pieces_what_would_have_been_sent_merged(ranks):
    for results in ranks:
        adapted = {case: result for case, result in results.items() if "lora" in case}
        assert len(adapted) == 5
        for case, result in adapted.items():
            assert max(step["merged"] for step in result["steps"]) < 1e-6, case
        sent = {case: result["pieces"] / result["whole"] for case, result in adapted.items()}
        # embeddings with 100 of 200 rows, and each whole where FSDP2 no longer says which rows are trained
        assert sent["zero 3, lora"] < 0.7 and sent["zero 2, lora"] < 0.3, sent


def test_zero_3_gathers_one_bucket_at_a_time_and_gives_it_back(ranks):
    for results in ranks:
        for case in ("zero 3", "zero 3, lora", "zero 3, tied gpt2", "zero 3, lora on gpt2 and its embeddings"):
            assert 0 < results[case]["gathered"] < results[case]["whole"] / 4, case  # the embeddings are the largest
            assert results[case]["left_gathered"] == 0, case
