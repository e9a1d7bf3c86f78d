"""Runs of earlier versions made self-contained: their folders lack the catalog and what prompts are made of."""

from pathlib import Path

from catalog.errors import InputError
from catalog.files import MARKER, read_json, seal
from experiments.evaluations import check_data, data_provenance, run_settings
from interactions import load_prepared
from policy.folders import check_finished, finished
from recommenders.policy_folder import RECORD, PolicyRecord, count_items, write_record
from trainer.runtime.contents import reward_settings


def complete_run(run: str | Path, data: str | Path) -> None:
    """Write into a finished run's folder what `GenerativeRecommender.from_pretrained` needs beside the weights.

    The checkpoints in it are completed too.

    data: the prepared folder that it was trained on. Raises InputError where it was trained on another one, where the
    run is not finished, or where its folder is complete already.
    """
    run = Path(run)
    settings = run_settings(run)
    check_finished(run)
    if (run / RECORD).is_file():
        raise InputError(f"{run} has its {RECORD} already.", remedy="Use it as it is.", file=run)
    catalog, splits = load_prepared(data)
    check_data(run, data, data_provenance(catalog, splits))
    about = read_json(run / MARKER, "The marker")["of"]
    record = PolicyRecord(
        settings["method"], settings["max_history"], settings.get("prompt_template"), reward_settings(settings)
    )
    counts = count_items(splits.train, len(catalog))
    for checkpoint in run.glob("checkpoint-*"):
        if finished(checkpoint):  # not sealed anew, since the marker's time tells which is the newest
            write_record(checkpoint, record, catalog, counts)
    write_record(run, record, catalog, counts)
    seal(run, about)
