"""A trained recommender over HTTP: POST /recommend takes histories and gives lists of items.

python -m recipes.serve --model runs/demo/gflownet
python -m recipes.serve --model runs/demo/gflownet --guide runs/demo/recommenders/mixture --guide_weight 0.5 --port 8001
"""

import os
from collections.abc import Sequence

import recipes  # noqa: F401  # refuses what would hide one of our packages
from experiments.command_line import parse, program
from experiments.server_arguments import ServeArguments


@program
def main(argv: Sequence[str] | None = None) -> None:
    (args,) = parse(argv, ServeArguments)
    from experiments.serve import build
    from serving.listening import KEY, bind, is_local, listen, read_key, run

    listener = bind(args.host, args.port)  # before the model, which takes long
    key = None if is_local(listener) and not os.environ.get(KEY) else read_key()
    app, what = build(args, key)
    url = listen(listener, args.host, args.port)
    header = "" if key is None else f' -H "Authorization: Bearer ${KEY}"'
    print(f"serving {args.model}: {what}, {url}")
    print(f'Next: curl {url}/recommend{header} -d \'{{"history": [ITEM, ...], "k": 10}}\'', flush=True)
    run(app, listener)


if __name__ == "__main__":
    main()
