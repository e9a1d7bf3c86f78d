"""A trained recommender as an HTTP app, from the folder of its run."""

from importlib.metadata import version
from typing import Any

from experiments.server_arguments import ServeArguments


def build(args: ServeArguments, key: str | None) -> tuple[Any, str]:
    """The app around the recommender, and what it serves in words.

    Raises InputError or SetupError where the folder holds no whole recommender, the catalog grew from another one, the
    guide knows another catalog, or the engine does not start.
    """
    from recommenders import GenerativeRecommender, load_recommender
    from serving.app import make_app
    from serving.served import Served

    recommender = GenerativeRecommender.from_pretrained(
        args.model,
        device=args.device,
        dtype=args.dtype,
        engine=args.engine,
        engine_settings=args.settings or None,
        catalog=args.catalog,
    )
    guide = load_recommender(args.guide, recommender.catalog) if args.guide else None
    served = Served(recommender, guide, args.guide_weight, args.beam_width, args.max_batch)
    served.warm_up()
    about = {"model": args.model, "engine": args.engine, "guide": args.guide, "version": version("gflowgr")}
    app = make_app(served, key=key, about=about, seconds=args.timeout)
    return app, f"{len(recommender.catalog)} items of catalog {recommender.catalog.fingerprint}"
