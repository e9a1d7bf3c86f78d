"""What recipes/plan.py predicts against what processes hold on CPU: weights, gradients, optimizer, activations.

python benchmarks/memory.py

Real launches over gloo of a Qwen2 of 34 million parameters with Adam. "held" counts the storages of all tensors that
are alive between backward and the optimizer's step; "peak" adds to those between steps what the allocator was asked for
in one further step (torch.profiler's memory events); "resident" is what the kernel counts for the process, libraries
included. Of several processes the fullest counts. Activations are the profiler's peak of one forward and backward of
CausalPolicy.log_probs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from memory_worker import BATCH, BUCKET, MODEL, SETTINGS

from experiments.memory import Job, Shape, activations, memory

ROOT = Path(__file__).parent.parent
LAUNCHES = [("single", 1)] + [
    (recipe, processes)
    for recipe in ("ddp", "zero1", "zero2", "zero3", "fsdp2")
    for processes in ((2, 4) if recipe in ("ddp", "fsdp2") else (1, 2, 4))
]


def shape(vocabulary: int) -> Shape:
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    return Shape(*(MODEL[name] for name in sizes), vocabulary, MODEL["tie_word_embeddings"])


def measure(what: str, processes: int = 1) -> list:
    """What the worker's ranks found."""
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # so that what is freed goes back to the kernel
    }
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *launcher, str(Path(__file__).with_name("memory_worker.py")), folder, what]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=600)
        return [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]


def states(recipe: str, processes: int) -> list[dict]:
    """Both predictions of a launch beside what was measured."""
    model, job = shape(MODEL["vocab_size"]), Job(1, 1, 1, 1, gpus=processes, precision="float32", bucket=BUCKET)
    need = memory(recipe, model, job)
    # after the reduction ZeRO-1 keeps the gradients that ZeRO-2 keeps, and ZeRO-3 has its bucket all the time
    gradients = memory("zero2" if recipe == "zero1" else recipe, model, job).gradients
    held = need.parameters + gradients + need.optimizer + (4 * BUCKET if recipe == "zero3" else 0)
    embedding = 2 * 4 * model.embedding  # a tied one has two more gradients when backward ends and all else is freed
    found = measure(recipe, processes)
    largest = {name: max(rank[name] for rank in found) for name in found[0]}
    case = {"case": f"{recipe}, {processes} processes", "resident": largest["resident"]}
    peak = need.states + (max(need.transient, embedding) if recipe != "zero3" else need.transient)
    return [
        case | {"what": "held", "predicted": held, "measured": largest["held"]},
        case | {"what": "peak", "predicted": peak, "measured": largest["peak"]},
    ]


def forward_and_backward() -> list[dict]:
    """The activations' predictions beside what was measured."""
    cases = []
    for (precision, checkpointing, vocabulary), measured in zip(SETTINGS, measure("activations")[0], strict=True):
        job = Job(**BATCH, precision="float32" if precision == "float32" else "bf16")
        parts = activations(shape(vocabulary), job, checkpointing=checkpointing, autocast=precision == "autocast")
        name = f"{precision}, {'checkpointing, ' if checkpointing else ''}vocabulary {vocabulary:,}"
        cases.append({"case": name, "what": "activations", "predicted": sum(parts), "measured": measured})
    return cases


def main() -> None:
    cases = forward_and_backward() + [case for launch in LAUNCHES for case in states(*launch)]
    print("| case | what | predicted MB | measured MB | predicted / measured | resident MB |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for case in cases:
        case["ratio"] = round(case["predicted"] / case["measured"], 3)
        resident = f"{case['resident'] / 1e6:.0f}" if case["what"] == "held" else ""
        sizes = f"{case['predicted'] / 1e6:.1f} | {case['measured'] / 1e6:.1f}"
        print(f"| {case['case']} | {case['what']} | {sizes} | {case['ratio']:.2f} | {resident} |")
    print(json.dumps({"worst_ratio": max((c["ratio"] for c in cases), key=lambda r: max(r, 1 / r)), "cases": cases}))


if __name__ == "__main__":
    main()
