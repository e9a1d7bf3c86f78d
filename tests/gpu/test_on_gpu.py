"""What no CPU can show. Nothing here has run yet: every test needs a CUDA device, see `pytest_collection_modifyitems`.

First the parts on the device beside the same on the CPU, then the checks of benchmarks/gpu.py, each run once.
"""

import pytest
import torch
from scipy.stats import chisquare

from benchmarks import gpu
from catalog import exact_log_flow, node_tokens
from policy import CausalPolicy, inference
from samplers import PolicySampler
from trainer import SFTTrainer

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture
def on_gpu(make_model, catalog, tokenizer):
    tokens = node_tokens(tokenizer, catalog.trie)
    return CausalPolicy(make_model().cuda(), catalog.trie.to("cuda"), tokens.cuda())


def test_the_policy_computes_on_a_gpu_what_it_does_on_a_cpu(policy, on_gpu, prompts):
    items = torch.arange(8).expand(len(prompts), -1)
    with inference(policy.model), inference(on_gpu.model):
        for name in ("log_probs", "naive_log_probs"):
            ours = getattr(on_gpu, name)(prompts.to("cuda"), items.cuda())
            theirs = getattr(policy, name)(prompts, items)
            ours, theirs = (getattr(found, "log_pf", found) for found in (ours, theirs))
            torch.testing.assert_close(ours.cpu(), theirs, atol=1e-4, rtol=0)
        everything = on_gpu.distribution(prompts.to("cuda")).cpu()
        torch.testing.assert_close(everything, policy.distribution(prompts), atol=1e-3, rtol=0)
        best, _ = on_gpu.beam(prompts.to("cuda"), 10)
    assert torch.equal(best.cpu(), policy.beam(prompts, 10)[0])


def test_draws_on_a_gpu_follow_the_exact_distribution(on_gpu, prompts):
    few = prompts.rows(0, 2).to("cuda")
    exact = on_gpu.distribution(few).double().softmax(-1).cpu()
    drawn = torch.cat([PolicySampler(on_gpu).sample(few, 500, seed).items for seed in range(20)], 1).cpu()
    for row in range(2):
        expected = exact[row] * drawn.shape[1]
        often = expected >= 5
        observed = drawn[row].bincount(minlength=len(expected)).double()
        pairs = [torch.cat([v[often], v[~often].sum().unsqueeze(0)]) for v in (observed, expected)]
        assert chisquare(*pairs).pvalue > 1e-3


def test_exact_flows_on_a_gpu_are_those_of_a_cpu(catalog):
    log_reward = torch.randn(4, len(catalog))
    theirs = exact_log_flow(log_reward, catalog.trie)
    ours = exact_log_flow(log_reward.cuda(), catalog.trie.to("cuda"))
    torch.testing.assert_close(ours.cpu(), theirs, atol=1e-5, rtol=1e-5)


def test_training_on_a_gpu_has_the_losses_of_a_cpu(make_trainer):
    losses = []
    for use_cpu in (True, False):
        trainer = make_trainer(SFTTrainer, name=f"cpu {use_cpu}", use_cpu=use_cpu)
        trainer.train()
        assert trainer.args.device.type == ("cpu" if use_cpu else "cuda")
        losses.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The figures of a check by what they are, from one run of it; it came to its end."""
    folder, seen = tmp_path_factory.mktemp("gpu"), {}

    def of(name):
        if name not in seen:
            _, rows = gpu.run([name], folder, 600, dry_run=False)
            seen[name] = {row["what"]: row["value"] for row in rows}
            assert "failed" not in seen[name], seen[name]
        return seen[name]

    return of


LARGEST, MEAN = "largest difference of a step's log P_F", "mean difference of a step's log P_F"


def test_an_engine_in_float32_draws_from_the_trained_policy(found):
    figures = found("float32")
    assert figures[f"engine and trainer: {LARGEST}"] <= 1e-3
    assert ".gpu." in figures["model runner"]  # V2


def test_without_the_engines_setting_float32_would_be_tf32(found):
    assert found("tf32")[f"with TF32: {LARGEST}"] > 3 * found("float32")[f"engine and trainer: {LARGEST}"]


def test_an_engine_in_bfloat16_differs_by_rounding(found):
    figures = found("bfloat16")
    assert figures[f"engine and trainer: {MEAN}"] <= 0.1
    assert figures["engine and trainer: correlation of paths"] >= 0.9


def test_an_engine_that_sleeps_gives_its_weights_back_and_takes_new_ones(found):
    figures = found("sleep")
    assert figures["version"] == "3" and all(figures[f"sync {n}: {MEAN}"] <= 0.1 for n in (1, 2, 3))
    assert figures["memory that sleep gives back"] >= 0.9  # GiB of 0.5 billion weights
    assert figures["memory that two more syncs took"] <= 0.1


def test_the_second_run_of_a_sweep_compiles_nothing(found):
    figures = found("compile")
    assert figures["both start from one folder"] == "yes"
    assert figures["second start of an engine"] <= 0.8 * figures["first start of an engine"]


def test_a_step_needs_the_memory_that_is_planned(found):
    figures = found("step")
    assert 0.8 <= figures["of what the plan says"] <= 1.2
    assert figures["of a large matmul"] >= 0.2
    assert figures["share of the step that the host waits"] <= 0.5


def test_clients_of_one_server_are_drawn_together(found):
    figures = found("server")
    assert figures["at once, times faster"] >= 1.5
    assert figures["share of the draws that are the same"] >= 0.99


@pytest.mark.parametrize("way", ["http", "nccl", "ipc"])
def test_weights_arrive_by_every_way(way, found):
    if way == "nccl" and torch.cuda.device_count() < 2:
        pytest.skip("NCCL needs two GPUs")
    figures = found("transfer")
    assert all(figures[f"{way}, sync {n}: {MEAN}"] <= 0.1 for n in (1, 2, 3))
    assert way == "http" or figures[f"{way} against http, times faster"] >= 1


def test_a_step_of_grpo_is_no_slower_than_trls(found):
    assert found("grpo")["ours, times faster"] >= 1


def test_rollouts_are_items_and_no_slower_than_generate(found):
    figures = found("rollouts")
    assert figures["draws that are items"] == 1 and figures["vLLM against generate, times faster"] >= 1
