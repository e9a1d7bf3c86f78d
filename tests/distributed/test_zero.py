"""Every ZeRO stage trains as one process does, goes on exactly and exports what it trained."""

import json
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig

from interactions import PromptBuilder
from policy import auto_class, inference, policy_of
from tests.distributed.launch import HERE, cause, command, run
from tests.distributed.problem import CATALOG, TOKENIZER, make_model, make_rows, write_classifier

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
WORKER = HERE / "zero_worker.py"
LIKE_ALONE = (
    *("adamw", "sgd", "accumulated", "checkpointed", "checkpointed, reentrant", "lora"),
    *("dpo", "grpo", "relative"),  # which read a frozen copy
    "t5",
)


def launch(starter, folder, *cases):
    write_classifier(folder / "classifier")
    status, printed = run([*starter, str(WORKER), str(folder), *cases])
    assert status == 0, cause(printed)
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return launch([sys.executable], tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=[1, 2, 3])
def zero(request, tmp_path_factory):
    """(stage, its results, where it exported)."""
    folder = tmp_path_factory.mktemp(f"zero{request.param}")
    return request.param, launch(command(f"cpu-zero{request.param}", WORKER)[:-1], folder), folder


@pytest.fixture(scope="module")
def zero_3(tmp_path_factory):
    """(results, where it exported) of what only ZeRO-3 does."""
    folder = tmp_path_factory.mktemp("only_zero3")
    return launch(command("cpu-zero3", WORKER)[:-1], folder, "sharded", "bf16", "traced"), folder


def loaded_log_pf(folder):
    """What a checkpoint, loaded by transformers alone, gives the pairs that zero_worker.log_pf asks for."""
    model = auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, dtype=torch.float32)
    prompts = PromptBuilder(CATALOG, TOKENIZER, 6)
    policy = policy_of(model, CATALOG.trie, prompts.tokens)
    with inference(model):
        return policy.log_probs(prompts(make_rows().select(range(4)).to_list()), torch.arange(10).expand(4, 10)).log_pf


def test_losses_are_those_of_one_process(alone, zero):
    stage, results, _ = zero
    for case in LIKE_ALONE:
        assert results[case]["losses"] == pytest.approx(alone[case]["losses"], abs=1e-4), (stage, case)
    assert results["adamw"]["got"] == alone["adamw"]["got"] | {"strategy": f"zero{stage}", "processes": 2}
    assert len(results["adamw"]["losses"]) == 20


def test_a_reward_model_is_whole_on_every_process(alone, zero):
    mine, theirs = zero[1]["reward model"], alone["reward model"]
    assert mine["losses"] == pytest.approx(theirs["losses"], abs=1e-6)
    assert theirs["losses"][-1] > 1e-4  # 0 where it rewards all alike


def test_only_zero_3_leaves_out_what_logging_needs_in_its_second_step(alone, zero):
    assert alone["logged"]["gaps"] == [True] * 4
    stage, results, _ = zero
    _, second, third, fourth = results["logged"]["forwards"]
    assert third == fourth
    assert results["logged"]["gaps"] == [True, stage != 3, True, True]
    assert third - second == (stage == 3)


def test_accumulation_and_checkpointing_change_nothing(alone):
    for case in ("accumulated", "checkpointed", "checkpointed, reentrant"):
        assert alone[case]["losses"] == pytest.approx(alone["sgd"]["losses"], abs=1e-5), case


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(alone, zero):
    for results in (alone, zero[1]):
        assert results["resume"]["resumed"] == results["resume"]["losses"]
        assert results["resume"]["moved"] == 0
        assert len(set(results["resume"]["losses"])) == 6


def test_another_number_of_processes_goes_on_with_the_same_optimizer(zero):
    stage, results, folder = zero
    one = launch(command(f"cpu-zero{stage}", WORKER, options=("--num_processes", "1"))[:-1], folder, "other processes")
    assert one["other processes"]["processes"] == 1
    assert one["other processes"]["losses"] == pytest.approx(results["adamw"]["losses"], abs=1e-5)


def test_the_export_is_a_plain_checkpoint_of_what_was_trained(alone, zero):
    _, results, folder = zero
    for case in ("adamw", "lora", "t5"):
        torch.testing.assert_close(
            loaded_log_pf(folder / case / "export"), torch.tensor(results[case]["log_pf"]), atol=1e-5, rtol=0
        )
        with safe_open(folder / case / "export" / "model.safetensors", "pt") as file:
            assert not any("lora" in name or "flow" in name for name in file.keys())
        with safe_open(folder / case / "export" / "flow_heads" / "flow_heads.safetensors", "pt") as file:
            assert file.get_tensor("log_flow.start") != 0


def test_lora_trains_the_rows_of_the_codes_and_leaves_the_others_their_bits(alone, zero):
    codes = PromptBuilder(CATALOG, TOKENIZER, 6).tokens[1:].unique().tolist()
    assert len(alone["lora"]["moved"]) > len(codes) / 2  # a last code that no prompt holds is never read
    for results in (alone, zero[1]):
        assert set(results["lora"]["moved"]) <= set(codes)
        assert results["lora"]["moved"] == alone["lora"]["moved"]


def test_a_reference_of_a_sharded_model_is_its_copy_and_sharded(zero_3):
    result = zero_3[0]["sharded"]
    assert result["margins"][0] == pytest.approx(0, abs=1e-5) and max(result["margins"]) > 1e-4
    whole = sum(parameter.numel() for parameter in make_model().parameters())
    assert 0 < result["held"] < 0.6 * whole


def test_deepspeed_knows_the_order_of_the_weights_from_the_third_step_on(zero_3):
    """Without it nothing is gathered ahead; a forward more before the second step would end it for good."""
    found = zero_3[0]["traced"]
    assert found["gaps"] == [True, False, True, True, True]
    assert found["modes"][2:] == ["COMPLETE"] * 3


def test_bfloat16_under_zero_3_is_float32_to_its_precision(alone, zero_3):
    results, folder = zero_3
    assert results["bf16"]["got"]["precision"] == "bf16"
    assert results["bf16"]["losses"] == pytest.approx(alone["sgd"]["losses"], abs=0.02)
    torch.testing.assert_close(
        loaded_log_pf(folder / "bf16" / "export"), torch.tensor(results["bf16"]["log_pf"]), atol=0.05, rtol=0
    )
