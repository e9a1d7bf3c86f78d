"""What `tune.py` does: trials of settings by Optuna, several side by side, all on the validation items.

Everything that Optuna knows lies in the output folder, so that a search that was killed goes on where it was.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import torch

from catalog.errors import RunError
from catalog.extras import extra
from catalog.files import MARKER, read_json, write_json
from catalog.progress import progress
from experiments import ROOT
from experiments.evaluations import data_provenance
from experiments.stages import Processes, alone, last_lines
from experiments.train import prepare_missing
from experiments.tune_arguments import TuneArguments
from experiments.tune_methods import Tuned, read_methods, start_values
from experiments.tune_results import write_search
from interactions import load_prepared
from interactions.provenance import Provenance
from trainer.reporting.run_folder import read_log

with extra("tune", "A search of settings"):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import Trial, TrialState

JOURNAL, SEARCH, TIMES = "trials.journal", "search.json", "trials.jsonl"
STOPPED = "The search was asked to stop. The same command goes on."
POLL, PATIENCE = 0.5, 60.0
"""Seconds between two looks at what runs, and until a trial that was asked to end is killed."""


def tune(args: TuneArguments, argv: Sequence[str]) -> dict[str, Any]:
    """Search the settings of every method, and write what came out into `output_dir`; the content of its metrics.json.

    argv: the command line, which says whether the data may be prepared.

    Raises:
        InputError: what is asked for cannot be, or the folder holds another search.
        RunError: a method's first trial failed, no trial was measured, or the search was asked to stop.
    """
    environment = dict(os.environ)  # as it is before checking the settings: transformers keeps some of them there
    methods, folder = read_methods(args), Path(args.output_dir)
    prepare_missing(argv, args.data, args.data_recipe)
    check_search(args, methods)
    for method in methods:
        method.prepare()
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with alone(folder) as lock, Processes(environment, folder / TIMES, lock) as processes:
        studies = [Search.begin(args, method) for method in methods]
        with _bar(args, studies) as bar:
            _run(args, studies, processes, bar)
        return write_search(args, {one.method.name: (one.method, one.study) for one in studies})


def check_search(args: TuneArguments, methods: Sequence[Tuned]) -> None:
    """Note what is searched on which data. Raises InputError where the folder holds another search, or something else.

    The budget may grow, so it is not compared.
    """
    catalog, splits = load_prepared(args.data)
    of = data_provenance(catalog, splits)
    how = {name: getattr(args, name) for name in ("metric", "exclude_history", "pruner", "seed")}
    decides = {f"{method.name}.{name}": value for method in methods for name, value in method.decides.items()}
    wanted, path = Provenance(of.catalog, of.splits, how | decides), Path(args.output_dir) / SEARCH
    if path.is_file():
        kept = Provenance.from_dict(read_json(path, "The search"))
        wanted.check(kept, f"The search in {args.output_dir}", "Give another output_dir, or the same settings.", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted.as_dict())


@dataclass
class Running:
    """A trial at work. before: the seconds that it took before the search was interrupted."""

    trial: Trial
    process: Popen[bytes]
    folder: Path
    slot: int
    before: float = 0.0
    reported: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started


@dataclass
class Search:
    """One method's trials."""

    args: TuneArguments
    method: Tuned
    study: optuna.Study
    running: list[Running] = field(default_factory=list)

    @classmethod
    def begin(cls, args: TuneArguments, method: Tuned) -> "Search":
        """A new study whose first trial has the method's own settings, or the one that lies there.

        Trials that were at work when it was interrupted are tried again first, in their folders.
        """
        storage = JournalStorage(JournalFileBackend(str(Path(args.output_dir) / JOURNAL)))
        study = optuna.create_study(
            storage=storage,
            study_name=method.name,
            direction="maximize",
            load_if_exists=True,
            pruner=_pruner(args.pruner),
        )
        if not study.trials:
            first = start_values(method)
            study.enqueue_trial(first, user_attrs={"own": len(first) == len(method.space)})
        for left in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(left.number, state=TrialState.FAIL)
            study.enqueue_trial(left.params, user_attrs={"folder": left.number} | left.user_attrs)
        return cls(args, method, study)

    @property
    def finished(self) -> list[optuna.trial.FrozenTrial]:
        return finished(self.study)

    @property
    def spent(self) -> float:
        """Seconds of all trials."""
        return sum(t.user_attrs["seconds"] for t in self.finished) + sum(one.seconds for one in self.running)

    @property
    def has_budget(self) -> bool:
        """Whether one more trial may begin."""
        begun = len(self.finished) + len(self.running)
        return begun < self.args.trials and (self.args.seconds is None or self.spent < self.args.seconds)

    def start(self, processes: Processes, slot: int) -> None:
        """Begin the next trial."""
        # a seed for each, so that a search that was interrupted goes on as it would have
        number = len(self.study.trials)
        self.study.sampler = optuna.samplers.TPESampler(seed=self.args.seed + number)
        trial = self.study.ask()
        settings = {name: some.suggest(trial, name) for name, some in self.method.space.items()}
        place = trial.user_attrs.get("folder", trial.number)
        folder = Path(self.args.output_dir) / "trials" / self.method.name / str(place)
        trial.set_user_attr("folder", place)
        gpus = torch.cuda.device_count()
        own = {"CUDA_VISIBLE_DEVICES": _device(slot, gpus)} if gpus > 1 else {}
        process = processes.start(self.method.command(settings, folder), folder / "trial.log", **own)
        self.running.append(Running(trial, process, folder, slot, trial.user_attrs.get("seconds", 0.0)))

    def look(self, one: Running, processes: Processes) -> bool:
        """Report what a trial has measured since, and end it where it has, should or may no longer; whether it has."""
        over = one.process.poll() is not None  # before reading, so that nothing is missed
        records = [record for record in read_log(one.folder) if f"eval_{self.args.metric}" in record]
        values = [record[f"eval_{self.args.metric}"] for record in records if "final" not in record]
        for step, value in list(enumerate(values, 1))[one.reported :]:
            one.trial.report(value, step)
            one.trial.set_user_attr("seconds", one.seconds)
        pruned = len(values) > one.reported and not over and one.trial.should_prune()
        one.reported = max(one.reported, len(values))
        if not (over or pruned or self._late(one)):
            return False
        seconds = one.seconds
        _end(one.process)
        if processes.asked:
            return True
        name = f"{self.method.name} {one.folder.name}"
        status = processes.end(name, one.process, seconds)
        self._tell(one, records, seconds, pruned=pruned, failed=over and status != 0)
        self.running.remove(one)
        return True

    def _late(self, one: Running) -> bool:
        own, all_of_them = self.args.trial_seconds, self.args.seconds
        return bool((own and one.seconds > own) or (all_of_them and self.spent > all_of_them))

    def _tell(self, one: Running, records: list[Any], seconds: float, *, pruned: bool, failed: bool) -> None:
        one.trial.set_user_attr("seconds", seconds)
        words = last_lines(one.folder / "trial.log").splitlines()[-1:] if failed else ["It was not measured in time."]
        failed = failed or not records
        if failed:
            one.trial.set_user_attr("error", words[0] if words else "It said nothing.")
            self.study.tell(one.trial, state=TrialState.FAIL)
        elif pruned:
            one.trial.set_user_attr("reached", self.method.value(records))
            self.study.tell(one.trial, state=TrialState.PRUNED)
        else:
            self.study.tell(one.trial, self.method.value(records))
        _remove_weights(one.folder)
        if failed and not any(trial.state != TrialState.FAIL for trial in self.finished):
            raise RunError(
                f"A trial of {self.method.name} failed before any was measured; {one.folder / 'trial.log'} ends with\n"
                f"{last_lines(one.folder / 'trial.log')}"
            )


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that have come to an end; not those that an interruption ended, which were tried again."""
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in ended if trial.state != TrialState.FAIL or "error" in trial.user_attrs]


def _run(args: TuneArguments, studies: list[Search], processes: Processes, bar: Any) -> None:
    """Run trials until every method's budget is spent, those methods first that have had the fewest."""
    try:
        while True:
            while sum(len(one.running) for one in studies) < args.jobs:
                waiting = [one for one in studies if one.has_budget]
                if not waiting or processes.asked:
                    break
                taken = {running.slot for one in studies for running in one.running}
                search = min(waiting, key=lambda one: len(one.finished) + len(one.running))
                search.start(processes, min(set(range(args.jobs)) - taken))
            if processes.asked:
                raise RunError(STOPPED)
            if not any(one.running for one in studies):
                return
            for one in studies:
                ended = sum(one.look(running, processes) for running in list(one.running))
                bar.update(ended)
            time.sleep(POLL)
    finally:
        for left in (running for one in studies for running in one.running):
            _end(left.process)


def _end(process: Popen[bytes]) -> None:
    """End a process, which may keep what it has first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except TimeoutExpired:
            process.kill()
            process.wait()


def _remove_weights(folder: Path) -> None:
    """Keep of a trial's run what was measured: training anew with what was chosen makes the weights."""
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (*folder.glob("*.safetensors"), folder / MARKER):
        path.unlink(missing_ok=True)


def _device(slot: int, gpus: int) -> str:
    """The GPU of a job, of those that this process sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    return seen.split(",")[slot % gpus]


def _pruner(name: str) -> optuna.pruners.BasePruner:
    kinds = {
        "median": optuna.pruners.MedianPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "none": optuna.pruners.NopPruner,
    }
    return kinds[name]()


@contextmanager
def _bar(args: TuneArguments, studies: list[Search]) -> Iterator[Any]:
    done = sum(len(one.finished) for one in studies)
    with progress(total=args.trials * len(studies), initial=done, desc="trials", unit="trial") as bar:
        yield bar
