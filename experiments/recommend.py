"""What `recommend.py` does: a trained policy recommends to all users of a file, in parts that any process can make."""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from catalog.files import digests, file_digest, locked, require_file
from catalog.progress import progress
from experiments.evaluations import check_recommender, data_provenance
from experiments.launched import launched
from experiments.recommend_arguments import RecommendArguments
from experiments.recommendations import Recommendations
from interactions.histories import (
    History,
    HistorySource,
    in_parts,
    read_histories,
    read_item_list,
    split_histories,
)
from interactions.prepared import load_prepared
from interactions.provenance import Provenance
from policy.folders import finished
from recommenders import GenerativeRecommender, RankedList, load_recommender
from recommenders.policy_folder import find_folder, grown_catalog, policy_files, read_record

BATCHES = 8
"""Batches of a part. A part is what a killed process loses at most."""


@dataclass(frozen=True)
class Plan:
    """What all processes know before they begin.

    size: users of a part. missing: the numbers of the parts to make. counts: those of a file that is there already.
    grown: the folder whose catalog takes the place of the model's, from which it grew.
    """

    source: HistorySource
    target: Recommendations
    size: int
    missing: list[int]
    counts: dict[str, Any] | None = None
    grown: str | None = None


def recommend_users(model: str | Path, output: str | Path, **settings: Any) -> dict[str, Any]:
    """Recommend to every user of a file or of prepared data, into one file with a row a user.

    The rows are in the order of the input. A row has `user`, `items`, `scores`, `titles`, `source`, `unknown` and
    `error`, as `RankedList` explains them. The file is complete or absent. A call that was killed goes on where it
    stood when it is repeated. Processes that `accelerate launch` started share the users.

    Args:
        model: the folder of a finished run.
        output: a file that ends in .parquet or .jsonl. One that an earlier call wrote is left as it is where it was
            made of the same, and replaced otherwise.
        settings: the others of `RecommendArguments`: `histories` or `data`, `k`, `exclude` and so on.

    Returns:
        users, by_popularity, unknown_items and errors; users_per_second, unless the file was there.

    Raises:
        InputError: a setting is wrong, the histories are malformed, or `output` holds something else.
        SetupError: another process writes the same output, or the disk is full.
    """
    args = RecommendArguments(model=str(model), output=str(output), **settings)
    with launched() as processes, ExitStack() as held:

        def begin() -> Plan:
            output = Path(args.output)
            held.enter_context(locked(output.parent, f".{output.name}.lock"))
            plan = _plan(args, processes.count)
            held.callback(plan.target.discard_parts, unless_made=True)  # before the lock is released
            return plan

        plan: Plan = processes.from_main(begin)
        if plan.counts is not None:
            return plan.counts
        started = time.perf_counter()
        if own := plan.missing[processes.rank :: processes.count]:
            _make_parts(args, plan, set(own), processes.device(args.device), speaks=processes.is_main)
        processes.wait()
        seconds = time.perf_counter() - started
        counts = processes.from_main(plan.target.put_together)
    made = sum(min(plan.size, plan.source.users - number * plan.size) for number in plan.missing)
    return counts | ({"users_per_second": made / seconds} if made else {})


def _plan(args: RecommendArguments, processes: int) -> Plan:
    """Check all that is given and see what is there. Raises InputError."""
    if args.engine == "vllm" and processes > 1:
        raise InputError(
            f"engine=vllm with {processes} processes.",
            remedy="Start one process, or take engine=transformers.",
            field="engine",
            value=args.engine,
        )
    folder = find_folder(args.model)
    _, catalog, _ = read_record(folder)
    data, grown = Provenance(catalog.fingerprint), None
    if args.catalog:
        catalog, grown = grown_catalog(args.catalog, catalog), args.catalog
        data = Provenance(catalog.fingerprint)
    elif args.data:
        found, splits = load_prepared(args.data)
        if found.fingerprint != catalog.fingerprint and found.continues(catalog.fingerprint):
            catalog, grown = found, args.data
        data = replace(data_provenance(found, splits), catalog=catalog.fingerprint)
    if args.k > len(catalog):
        raise InputError(f"k={args.k}: the catalog has {len(catalog)} items.", field="k", value=args.k)
    if args.histories:
        source: HistorySource = read_histories(args.histories, args.names)
    else:
        source = split_histories(str(args.data), args.split)
    size = BATCHES * args.batch_size
    parts = -(-source.users // size)
    target = Recommendations(Path(args.output), _provenance(args, source, folder, data), parts)
    if (counts := target.finished()) is not None:
        target.discard_parts()
        return Plan(source, target, size, [], counts)
    return Plan(source, target, size, target.missing(), grown=grown)


def _provenance(args: RecommendArguments, source: HistorySource, folder: Path, data: Provenance) -> Provenance:
    """What decides the content of the output; where it is computed does not.

    data: the catalog, and with prepared data their rows; a guide must have been fitted on these.
    """
    names = ("k", "beam_width", "exclude_seen", "diversity", "engine", "dtype", "batch_size")
    settings: dict[str, Any] = {name: getattr(args, name) for name in names}
    settings |= {"model": _model_digest(folder), "histories": source.digest, "engine_settings": args.engine_table}
    for name in ("exclude", "filter"):
        if path := getattr(args, name):
            require_file(Path(path), f"The file of {name}")
            read_item_list(path)  # a malformed one is refused before work starts
            settings[name] = file_digest(Path(path))[:16]
    if args.names:
        settings["columns"] = args.names
    if args.guide:
        fitted = check_recommender(args.guide, data)
        settings["guide"] = {"weight": args.guide_weight, "fitted": fitted.as_dict()}
    return Provenance(data.catalog, {}, settings)


def _model_digest(folder: Path) -> str:
    """What tells the policy in a folder, its catalog and its prompts from others; 16 hexadecimal digits."""
    known = digests(folder) if finished(folder) else {}
    names = [str(path.relative_to(folder)) for path in policy_files(folder)]
    content = {name: known.get(name) or file_digest(folder / name) for name in names}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _make_parts(args: RecommendArguments, plan: Plan, own: set[int], device: str | None, speaks: bool) -> None:
    """Make the parts `own`, one after another."""
    recommender = GenerativeRecommender.from_pretrained(
        args.model,
        device=device,
        dtype=args.dtype,
        engine=args.engine,
        engine_settings=args.engine_table,
        catalog=plan.grown,
    )
    how: dict[str, Any] = {
        name: getattr(args, name) for name in ("k", "beam_width", "exclude_seen", "diversity", "batch_size")
    }
    if args.filter:
        listed = read_item_list(args.filter)
        how["filter"] = {item for some in listed.values() for item in some} if isinstance(listed, dict) else set(listed)
    if args.guide:
        how["guide"] = load_recommender(args.guide, recommender.catalog)
        how["guide_weight"] = args.guide_weight
    excluded = read_item_list(args.exclude) if args.exclude else []
    users = sum(min(plan.size, plan.source.users - number * plan.size) for number in own)
    with progress(total=users, desc="recommended", unit="user", disable=not speaks) as bar:
        for number, part in enumerate(in_parts(plan.source, plan.size)):
            if number in own:
                plan.target.write_part(number, part, _recommend(recommender, part, excluded, how))
                bar.update(len(part))


def _recommend(
    recommender: GenerativeRecommender,
    part: Sequence[History],
    excluded: list[str] | dict[str, list[str]],
    how: dict[str, Any],
) -> list[RankedList]:
    """A list for each history; one that could not be read has its error and no items."""
    read = [history for history in part if history.error is None]
    without = [excluded.get(history.user, []) for history in read] if isinstance(excluded, dict) else excluded
    found = iter(recommender.recommend([history.items for history in read], exclude=without, **how) if read else ())
    return [next(found) if history.error is None else RankedList(error=history.error) for history in part]
