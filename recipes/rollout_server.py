"""A rollout server: one vLLM engine that draws for training processes elsewhere, with the weights that they send.

export GFLOWGR_API_KEY=$(python -c 'import secrets; print(secrets.token_hex(16))')
python -m recipes.rollout_server --model runs/ml-100k/sft --data runs/ml-100k/data
python -m recipes.rollout_server --model runs/mine/sft --data runs/mine/data --engine '{"gpu_memory_utilization": 0.5}'
"""

from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.command_line import command, parse, program
from experiments.server_arguments import RolloutServerArguments


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, RolloutServerArguments)
    from experiments.rollout_server import build
    from serving.listening import bind, listen, read_key, run

    key = read_key()
    listener = bind(args.host, args.port)  # before the engine, which takes long
    app, what = build(args, key)
    url = listen(listener, args.host, args.port)
    print(f"serving {args.model}: {what}, {url}")
    drawn: tuple[str, ...] = ("--use_vllm", "--vllm_mode", "server", "--vllm_server_base_url", url)
    if args.weight_transfer != "http":
        drawn += ("--weight_transfer", args.weight_transfer)
    recipe = ("--config", "recipes/ml-100k/gflownet-server.yaml", "--model", args.model, "--data", args.data)
    print(f"Next: {command('train', *recipe, *drawn)}", flush=True)
    run(app, listener)


if __name__ == "__main__":
    main()
