"""What `chaos.py --what folders` kills: the programs that write the other folders.

Each of them writes into a folder that already holds what it made with other settings, and is killed at a random moment.
After every kill the folder must be the old one, the new one, or absent, or say of itself that it is not whole: never a
mixture that is read. Then the same command, given again, must make what it makes when nobody kills it.
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from catalog.errors import GFlowGRError
from catalog.files import MARKER, broken

BACKBONE = json.dumps(
    {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128, "attn_pdrop": 0.0}
)
VOLATILE = ("seconds", "saved_at", "sha256", "files", "time")
"""Keys of JSON files that differ between two runs of one command."""


@dataclass(frozen=True)
class Target:
    """A program, the arguments for the old and the new content of its folder, and the files that belong together.

    reader: a program that reads the folder, with its arguments; None where people do.
    """

    program: str
    old: Sequence[str]
    new: Sequence[str]
    folder: Path
    reader: tuple[str, Sequence[str]] | None = None
    files: str = "*"

    def content(self) -> dict[str, str]:
        """File -> digest of what does not differ between two runs of one command; hidden files are leftovers."""
        paths = [path for path in self.folder.rglob(self.files) if path.is_file()]
        paths = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(self.folder).parts)]
        return {str(path.relative_to(self.folder)): _digest(path) for path in paths if path.suffix != ".lock"}


def kill_folders(folder: Path, count: int, draw: random.Random) -> Counter[str]:
    """Kill each program about `count` / 4 times: `kills`, `whole` folders after one, `right` ones after the next."""
    result: Counter[str] = Counter()
    targets = prepare(folder / "folders")
    for number, target in enumerate(targets):
        kills = len(range(number, count, len(targets)))
        of_target = kill_target(target, kills, draw) if kills else Counter()
        print(f"{target.program}: {dict(of_target)}")
        result += of_target
    return Counter({f"folder_{name}": value for name, value in result.items()})


def prepare(folder: Path) -> list[Target]:
    """A made-up log, data, a run, its evaluation: what the programs need and do not write themselves."""
    folder.mkdir()
    write_log(folder / "log.csv")
    data, run, models = folder / "data", folder / "run", folder / "models"
    from_log = ["--log", str(folder / "log.csv"), "--codebook_sizes", "8", "8"]
    use = ["--data", str(data)]
    training = ["--method", "gflownet", "--backbone", BACKBONE, "--use_cpu", "true", "--max_steps", "2"]
    training += ["--max_history", "6", "--rewards", '{"hit": 1.0}', "--samplers", '{"target": 1, "random": 2}']
    evaluation = ["--run", str(run), *use]
    for program, argv in (
        ("prepare", [*from_log, "--output_dir", str(data)]),
        ("train", [*training, *use, "--output_dir", str(run)]),
        ("evaluate", evaluation),
    ):
        if status := run_program(program, argv):
            raise SystemExit(f"error: {program} failed with status {status}, see above.")
    other, page = folder / "other_data", folder / "page"
    knn = [*use, "--output_dir", str(models), "--models"]
    comparison = ["--output_dir", str(page), "--runs", str(run), "--title"]
    return [
        Target(
            "prepare",
            [*from_log, "--output_dir", str(other), "--min_interactions", "3"],
            [*from_log, "--output_dir", str(other), "--min_interactions", "5", "--seed", "1"],
            other,
            ("train", [*training, "--data", str(other), "--output_dir", str(folder / "dry"), "--dry_run", "true"]),
        ),
        Target(
            "recommenders",
            [*knn, '{"als": {"dimensions": 4}}'],
            [*knn, '{"als": {"dimensions": 8}}'],
            models,
            ("evaluate", [*evaluation, "--guide", str(models / "als"), "--output_dir", str(folder / "guided")]),
        ),
        Target("compare", [*comparison, "old"], [*comparison, "new"], page),
        Target(
            "evaluate",
            [*evaluation, "--beam_width", "50"],
            [*evaluation, "--beam_width", "60", "--exclude_history", "false"],
            run,
            ("compare", ["--output_dir", str(folder / "read"), "--runs", str(run)]),
            files="[rmc]*.*[nz]",  # ranked_test.npz, metrics.json, calibration.json and the markers
        ),
    ]


def kill_target(target: Target, kills: int, draw: random.Random) -> Counter[str]:
    """Old content, the program for the new one killed, and then left alone, `kills` times."""
    contents = {}
    for name, argv in (("new", target.new), ("old", target.old)):
        started = time.monotonic()
        if status := run_program(target.program, argv):
            raise SystemExit(f"error: {target.program} failed with status {status}, see above.")
        seconds = time.monotonic() - started
        contents[name] = target.content()
    result: Counter[str] = Counter()
    kept = target.folder.with_name(f"kept_{target.folder.name}")
    shutil.copytree(target.folder, kept)
    while result["kills"] < kills:
        child = fork(target.program, target.new)
        time.sleep(draw.uniform(0.3, 1.1) * seconds)
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == signal.SIGKILL:
            result["kills"] += 1
            whole = is_whole(target, contents)
            status = run_program(target.program, target.new)
            right = status == 0 and target.content() == contents["new"]
            result.update(whole=int(whole), right=int(right))
            if not (whole and right):
                print(f"{target.program}: whole {whole}, status {status}, right {right}")
        shutil.rmtree(target.folder)
        shutil.copytree(kept, target.folder)
    return result


def is_whole(target: Target, contents: dict[str, dict[str, str]]) -> bool:
    """Whether a folder is the old or the new one, absent, a part of the new one, or refused by what reads it.

    A part is made of whole folders alone: a new recommender, say, that is not measured yet.
    """
    found = target.content()
    if not found or found in contents.values():
        return True
    sealed = [marker.parent for marker in target.folder.rglob(MARKER)]
    begun = found.items() <= contents["new"].items() and sealed and not any(map(broken, sealed))
    return bool(begun or (target.reader and run_program(*target.reader)))


def run_program(program: str, argv: Sequence[str]) -> int:
    """The status that a program ends with in a process of its own."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(program, argv), 0)[1])


def fork(program: str, argv: Sequence[str]) -> int:
    main: Callable[[Sequence[str]], Any] = import_module(f"recipes.{program}").main
    if child := os.fork():
        return child
    status = 1
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
        main(list(argv))
        status = 0
    except (GFlowGRError, SystemExit) as error:
        status = 0 if isinstance(error, SystemExit) and not error.code else 1
        os.write(2, f"{program}: {error}\n".encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def write_log(path: Path) -> None:
    rng = random.Random(0)
    with path.open("w") as file:
        file.write("user,item,timestamp\n")
        for user in range(60):
            item = rng.randrange(40)
            for step in range(8):
                item = (item + rng.choice([1, 1, 2, 3])) % 40
                file.write(f"u{user},p{item},{1700000000 + 1000 * user + step}\n")


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
    elif path.suffix == ".html":
        content = re.sub(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", b"", content)
    return hashlib.sha256(content).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(inner) for name, inner in value.items() if name not in VOLATILE}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value
