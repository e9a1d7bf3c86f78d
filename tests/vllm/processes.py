"""Started by torchrun: a few steps with an engine in each process; the first process writes what was logged.

usage: processes.py OUT_DIR TENSOR_PARALLEL [SERVER ...]
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.distributed.problem import make_rows, make_trainer
from tests.vllm.servers import SHAPE


def late(seconds: float, call: Callable) -> Callable:
    def later(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return call(*args, **kwargs)

    return later


out, parallel, servers = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
trainer = make_trainer(
    out,
    model=SHAPE,
    use_cpu=True,
    ddp_backend="gloo",
    max_steps=3,
    learning_rate=0.01,
    samplers={"target": 1, "policy": 4},
    use_vllm=True,
    vllm_engine={"tensor_parallel_size": parallel} if parallel > 1 else None,
    vllm_mode="server" if servers else "colocate",
    **({"vllm_server_base_url": servers} if servers else {}),
)
if servers:  # a transfer takes its time, and the second process draws late: in the midst of it, if nobody waits
    if trainer.args.process_index == 0:
        trainer.rollouts.engine.sender._each = late(0.2, trainer.rollouts.engine.sender._each)
    else:
        trainer.rollouts.engine.sample = late(0.3, trainer.rollouts.engine.sample)
trainer.train()
rows = make_rows().to_list()[4 * trainer.args.process_index :][:4]
drawn = trainer.rollouts.mixture.sample(trainer.prompts(rows), seed=5).items
every = trainer.accelerator.gather(drawn).tolist()
if trainer.accelerator.is_main_process:
    log = [record for record in trainer.state.log_history if "loss" in record]
    result = {"processes": trainer.accelerator.num_processes, "gap": trainer.rollouts.gap, "log": log, "drawn": every}
    (out / "result.json").write_text(json.dumps(result))
trainer.end_training()
