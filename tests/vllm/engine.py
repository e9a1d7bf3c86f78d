"""Run by test_export.py in a process of its own, since the engine changes threads and seeds of whoever starts it.

usage: engine.py CHECKPOINT REQUESTS.json ANSWERS.json

REQUESTS holds [{"prompt": token ids, "legal": token ids}, ...]; ANSWERS gets, per request, the log-probability of every
legal token after the prompt, softmax over the legal ones.
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_NO_USAGE_STATS="1",
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
)

from vllm import LLM, SamplingParams

checkpoint, requests = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
engine = LLM(
    checkpoint,
    dtype="float32",
    enforce_eager=True,
    block_size=32,
    max_model_len=64,
    max_num_seqs=64,
    max_logprobs=64,
    logprobs_mode="processed_logprobs",
)
outputs = engine.generate(
    [{"prompt_token_ids": request["prompt"]} for request in requests],
    [
        SamplingParams(
            max_tokens=1, temperature=1.0, logprobs=len(request["legal"]), allowed_token_ids=request["legal"]
        )
        for request in requests
    ],
)
found = [
    [output.outputs[0].logprobs[0][token].logprob for token in request["legal"]]
    for request, output in zip(requests, outputs, strict=True)
]
Path(sys.argv[3]).write_text(json.dumps(found))
