"""What a run is said to need: the closed forms, what follows from them, and what a slip is answered with."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from experiments.memory import RECIPES, SHAPES, Job, activations, cache, memory, operations, sync, traffic
from recipes.plan import main

JOB = Job(batch=32, trajectories=8, max_history=20, levels=4, gpus=8)
SHARED = [name for name in RECIPES if name != "single"]


def say(capsys, *argv):
    main(argv)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SHAPES)
def test_a_built_in_size_has_the_parameters_of_the_model(name):
    shape = SHAPES[name]
    config = Qwen2Config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        assert AutoModelForCausalLM.from_config(config).num_parameters() == shape.parameters


@pytest.mark.parametrize(
    ("recipe", "per_parameter"),
    [  # 1910.02054, figure 1: 2 + 2 + 12 bytes, the third, the second and the first of them divided by 8
        ("single", 16),
        ("ddp", 16 + 4),  # its buckets
        ("zero1", 2 + 2 + 12 / 8),
        ("zero3", 16 / 8),
        ("fsdp2", 16 / 8),
    ],
)
def test_bytes_of_a_parameter_in_bf16(recipe, per_parameter):
    shape = SHAPES["7b"]
    assert memory(recipe, shape, JOB).states == pytest.approx(per_parameter * shape.parameters)


def test_zero_2_keeps_whole_the_gradients_of_which_it_owns_a_part():
    shape = SHAPES["7b"]
    p, cut = shape.parameters, shape.hidden * shape.intermediate
    assert memory("zero2", shape, JOB).states == pytest.approx((2 + 14 / 8) * p + 2 * cut)
    assert memory("zero2", shape, replace(JOB, gpus=1024)).gradients == 2 * shape.embedding  # one owns a piece of it


def test_in_float32_deepspeed_keeps_a_second_copy():
    shape, job = SHAPES["0.5b"], replace(JOB, precision="float32")
    single, zero1, zero3 = (memory(name, shape, job).states / shape.parameters for name in ("single", "zero1", "zero3"))
    assert (single, zero1, zero3) == pytest.approx((16, 8 + 12 / 8, 20 / 8))


def test_lora_trains_the_adapters_alone():
    shape, job = SHAPES["7b"], replace(JOB, lora_r=16)
    adapters = 28 * 16 * (4 * 3584 + 2 * (3584 + 512) + 3 * (3584 + 18944))  # q and o, k and v, the MLP
    assert shape.adapters(16) == adapters
    kept = memory("zero1", shape, job)
    assert kept.parameters == 2 * shape.parameters
    assert (kept.gradients, kept.optimizer) == (2 * adapters, 12 * adapters / 8)
    assert operations(shape, job, checkpointing=False)[0] == 4 / 6 * operations(shape, JOB, checkpointing=False)[0]


@pytest.mark.parametrize("recipe", SHARED)
@pytest.mark.parametrize("size", SHAPES)
def test_more_gpus_never_need_more_each(recipe, size):
    kept = [memory(recipe, SHAPES[size], replace(JOB, gpus=2**n)) for n in range(11)]
    for fewer, more in zip(kept, kept[1:], strict=False):
        assert more.states <= fewer.states and more.host <= fewer.host
    for fewer, more in zip(kept[1:], kept[2:], strict=False):  # a GPU alone need not gather
        assert more.states + more.transient <= fewer.states + fewer.transient


def test_checkpointing_keeps_less_and_a_row_has_the_tokens_of_the_shared_forward():
    assert JOB.row == 1 + 20 * 4 + 8 * 3
    for autocast in (False, True):
        kept, less = (sum(activations(SHAPES["7b"], JOB, checkpointing=c, autocast=autocast)) for c in (False, True))
        assert less < kept / 2


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("precision", "autocast", "size"), [("bf16", True, 4), ("bf16", False, 2), ("float32", False, 4)]
)
def test_of_the_vocabulary_only_the_gradient_of_its_rows_is_counted(precision, autocast, size, checkpointing):
    small, job = SHAPES["0.5b"], replace(JOB, precision=precision)
    large = replace(small, vocabulary=2 * small.vocabulary)
    (layers, head), (more_layers, more_head) = (
        activations(shape, job, checkpointing=checkpointing, autocast=autocast) for shape in (small, large)
    )
    # that of the head waits for that of the input, to which it is tied
    assert more_layers == layers and 1 <= (more_head - head) / (size * small.embedding) <= 2
    untied = activations(replace(small, tied=False), job, checkpointing=checkpointing, autocast=autocast)
    assert untied[0] == layers and untied[1] <= head
    assert 2 * head < 4 * small.vocabulary * job.batch * job.row  # the logits that a whole head would have, in float32
    less, more = (
        activations(small, replace(job, codes=codes), checkpointing=checkpointing, autocast=autocast)[1]
        for codes in (10**6, 2 * 10**6)
    )
    assert more - less == pytest.approx(25 * 10**6 * job.batch * job.row)  # bytes of a code of a token


def test_a_loss_multiplies_the_rows_of_a_levels_codes_and_a_draw_all():
    shape = SHAPES["0.5b"]
    training, drawing = operations(shape, JOB, checkpointing=False)
    body, tokens = shape.parameters - 151_936 * 896, 32 * JOB.row
    assert training == 6 * tokens * (body + 256 * 896)
    assert drawing == 2 * (tokens * body + 32 * 25 * 151_936 * 896)  # 1 + K (L - 1) tokens of a prompt
    assert operations(shape, replace(JOB, draws=False), checkpointing=False) == (training, 0)


def test_traffic_of_a_step():
    shape = SHAPES["7b"]
    volume = 2 * shape.parameters * 7 / 8  # the paper's psi, in bytes of bf16
    sent = {name: traffic(name, shape, JOB) / volume for name in ("zero1", "zero2", "zero3", "ddp")}
    assert sent == pytest.approx({"zero1": 2, "zero2": 2, "zero3": 3, "ddp": 4})  # DDP's gradients are float32
    assert sync("zero2", shape, JOB, engine=True) == 0 and sync("zero3", shape, JOB, engine=True) == pytest.approx(
        volume
    )
    assert sync("zero3", shape, JOB, engine=False) == pytest.approx(4 * volume)  # one forward a level
    assert traffic("ddp", shape, replace(JOB, gpus=1)) == 0


def test_the_cache_of_a_prompt():
    # 28 layers, keys and values of 4 heads of 128 in bf16, for 81 tokens of the prompt and 8 * 4 codes
    assert cache(SHAPES["7b"], JOB, 1) == 28 * 2 * 4 * 128 * 2 * (81 + 32)
    assert cache(SHAPES["7b"], JOB, 2) == cache(SHAPES["7b"], JOB, 1) / 2


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--model", "0.5b", "--gpus", "1"], "Use recipes/accelerate/single.yaml. "),
        (["--model", "1.5b", "--gpus", "8"], "Use recipes/accelerate/ddp.yaml. "),
        (["--model", "7b", "--gpus", "8"], "Use recipes/accelerate/zero1.yaml. "),
        (["--model", "7b", "--gpus", "8", "--vllm", "colocate"], "zero1.yaml with gradient_checkpointing: true. "),
        (["--model", "70b", "--gpus", "64"], "Use recipes/accelerate/zero3.yaml with gradient_checkpointing: true. "),
        (["--model", "70b", "--gpus", "1"], "Nothing fits. What is too large: host. "),
        (["--model", "70b", "--gpus", "64", "--vllm", "colocate"], "Nothing fits. What is too large: engine. "),
        (["--model", "7b", "--gpus", "8", "--link_bandwidth", "0.1", "--node_bandwidth", "0.1"], "limits: bandwidth."),
    ],
)
def test_what_is_recommended(argv, told, capsys):
    assert told in say(capsys, *argv)


def test_a_sleeping_engine_leaves_its_memory_to_training(capsys):
    argv = ["--model", "7b", "--vllm", "colocate", "--json"]
    awake, asleep = (
        json.loads(say(capsys, *argv, *more))["7b"][0]["recipes"] for more in ([], ["--vllm_enable_sleep_mode"])
    )
    assert awake["zero2"]["total"] - asleep["zero2"]["total"] == pytest.approx(0.3 * 80 * 2**30)


def test_a_summary_of_all_sizes(capsys):
    lines = say(capsys, "--model", "all", "--gpus", "1", "1024").splitlines()
    assert len(lines) == 2 + len(SHAPES) + 1
    assert lines[-2].split() == ["|", "70b", "|", "none", "|", "zero3*", "|"]


@pytest.mark.parametrize("described", ["backbone", "folder"])
def test_a_model_of_ones_own_is_counted(described, capsys, tmp_path):
    sizes = dict(n_embd=96, n_layer=2, n_head=3, vocab_size=200, n_positions=256, bos_token_id=0, eos_token_id=0)
    argv = ["--backbone", json.dumps({"model_type": "gpt2", **sizes})]
    if described == "folder":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
        argv = ["--model", str(tmp_path)]
    counted = 200 * 96 + 256 * 96 + 2 * (12 * 96 * 96 + 13 * 96) + 2 * 96
    assert f"{counted:,} parameters, 1 GPU(s)" in say(capsys, *argv, "--gpus", "1")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "model: name a folder, a hub name or one of"),
        (["--model", "7b", "--backbone", "{}"], "or give a backbone, not both."),
        (["--model", "./no/such/folder"], "no/such/folder"),
        (["--backbone", '{"hidden_size": 8}'], "backbone: model_type is missing."),
        (["--backbone", "{"], "is not JSON"),
        (["--model", "7b", "--gpus", "0"], "gpus=0: it must be 1 or more."),
        (["--model", "7b", "--codes", "0"], "codes=0: it must be at least 1."),
        (["--model", "7b", "--batch", "0"], "batch=0: it must be at least 1."),
        (["--model", "7b", "--gpu_memory", "0"], "gpu_memory=0.0: it must be above 0."),
        (["--model", "7b", "--gpu_memory_utilization", "1"], "gpu_memory_utilization=1.0: give a share"),
        (["--model", "7b", "--lora_r", "-1"], "lora_r=-1: it must be at least 0."),
        (["--model", "7b", "--method", "sft", "--vllm", "server"], "vllm: sft draws nothing."),
        (["--model", "7b", "--tensor_parallel_size", "2"], "are of vllm: colocate. Leave them out."),
        (
            ["--model", "7b", "--gpus", "8", "--vllm", "colocate", "--tensor_parallel_size", "3"],
            "tensor_parallel_size=3 does not divide gpus=8. Set a divisor.",
        ),
        (
            ["--model", "7b", "--gpus", "8", "--vllm", "colocate", "--tensor_parallel_size", "8"],
            "tensor_parallel_size=8 does not divide the model's 28 attention heads.",
        ),
    ],
)
def test_a_slip_ends_in_one_sentence(argv, message):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert str(stopped.value).startswith("error: ") and message in str(stopped.value)
