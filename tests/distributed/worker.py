"""Started by torchrun: a few steps; the first process writes losses, a weight sum and an evaluation of some users.

usage: worker.py OUT_DIR BATCH_PER_PROCESS [ROWS_OF_PROCESS_1]
"""

import json
import sys
from pathlib import Path

from tests.distributed.problem import losses, make_trainer

out = Path(sys.argv[1])
trainer = make_trainer(
    out,
    use_cpu=True,
    optim="sgd",
    learning_rate=0.05,
    global_batch_size=None,
    per_device_train_batch_size=int(sys.argv[2]),
    eval_users=21,
)
if len(sys.argv) > 3 and trainer.args.process_index == 1:
    trainer.train_dataset = trainer.train_dataset.select(range(int(sys.argv[3])))
trainer.train()
result = {
    "processes": trainer.accelerator.num_processes,
    "metrics": trainer.evaluate(),
    "losses": losses(trainer),
    "weights": sum(p.double().abs().sum().item() for p in trainer.model.parameters()),
}
if trainer.accelerator.is_main_process:
    (out / "result.json").write_text(json.dumps(result))
trainer.end_training()
