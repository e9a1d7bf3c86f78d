"""A rollout server: one vLLM engine that draws for training processes elsewhere, with the weights that they send.

export GFLOWGR_API_KEY=$(python -c 'import secrets; print(secrets.token_hex(16))')
python -m recipes.rollout_server --model runs/ml-100k/sft --data runs/ml-100k/data
python -m recipes.rollout_server --model runs/mine/sft --data runs/mine/data --engine '{"gpu_memory_utilization": 0.9}'
"""

import contextlib
import sys
from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.arguments import RolloutServerArguments
from experiments.command_line import command, fail, parse, program


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, RolloutServerArguments)
    from experiments.rollout_server import bind, build, read_key

    key = read_key()
    listener = bind(args.host, args.port)  # before the engine, which takes long
    app, what = build(args, key)
    import uvicorn

    from samplers.rollouts.http_limits import server_config

    try:
        listener.listen()
    except OSError as error:  # another server has begun to listen while the engine was loaded
        fail(f"{args.host}:{args.port} cannot be served: {error.strerror}. Give another --port.")
    if not listener.getsockname()[0].startswith(("127.", "::1")):
        print(f"warning: what is sent to {args.host} is not encrypted, the key included", file=sys.stderr)
    host = f"[{args.host}]" if ":" in args.host else args.host
    url = f"http://{host}:{args.port}"
    print(f"serving {args.model}: {what}, {url}")
    drawn = ("--use_vllm", "--vllm_mode", "server", "--vllm_server_base_url", url)
    recipe = ("--config", "recipes/ml-100k/gflownet-server.yaml", "--model", args.model, "--data", args.data)
    print(f"Next: {command('train', *recipe, *drawn)}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(server_config(app)).run(sockets=[listener])


if __name__ == "__main__":
    main()
