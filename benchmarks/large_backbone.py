"""A pretrained backbone sharded over processes: a few steps of SFT and GFlowNet, and what gathering the weights costs.

accelerate launch --config_file recipes/accelerate/cpu-zero3.yaml benchmarks/large_backbone.py --model MODEL --data DATA

MODEL: a folder, a hub name or a .gguf file. DATA: what recipes/prepare.py wrote. The last line is JSON: the losses of
both methods, seconds of a GFlowNet step and of gathering every weight for a rollout engine, and their ratio.
"""

import argparse
import json
import statistics
import tempfile
import time

from interactions import load_prepared
from policy.loading import load_backbone
from samplers.rollouts.weights import policy_weights
from trainer import METHODS, RecommenderTrainer

TEMPLATE = "The user watched {history} and then"


def train(method: str, args: argparse.Namespace, folder: str, **settings: object) -> RecommenderTrainer:
    trainer_class, config_class = METHODS[method]
    config = config_class(
        f"{folder}/{method}",
        global_batch_size=args.prompts,
        max_steps=args.steps,
        max_history=10,
        prompt_template=TEMPLATE,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    catalog, splits = load_prepared(args.data)
    model, tokenizer = load_backbone(catalog, args.model, None, config.seed)
    trainer = trainer_class(model, config, train_dataset=splits.train, processing_class=tokenizer, catalog=catalog)
    trainer.train()
    return trainer


def losses(trainer: RecommenderTrainer) -> list[float]:
    return [round(record["loss"], 4) for record in trainer.state.log_history if "loss" in record]


def gather_seconds(trainer: RecommenderTrainer) -> float:
    started = time.perf_counter()
    for _ in policy_weights(trainer.model, skip=("flow_heads",)):
        pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8, help="per step, over all processes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sft = train("sft", args, folder)
        trainer = train(
            "gflownet",
            args,
            folder,
            samplers={"target": 1, "policy": 3},
            rewards={"hit": 1, "prefix": 1},
            flow_weight=0.1,
        )
    logged = [r["time/prompts_per_second"] for r in trainer.state.log_history if "time/prompts_per_second" in r]
    step = args.prompts / trainer.runtime_info["processes"] / statistics.median(logged)
    gather = statistics.median(gather_seconds(trainer) for _ in range(5))
    result = trainer.runtime_info | {
        "sft_losses": losses(sft),
        "gflownet_losses": losses(trainer),
        "step_seconds": round(step, 2),
        "gather_seconds": round(gather, 3),
        "gather_share": round(gather / step, 4),
    }
    if trainer.accelerator.is_main_process:
        print(json.dumps(result))
    trainer.end_training()


if __name__ == "__main__":
    main()
