"""The first minutes on a GPU: what no CPU can show, check by check, without network.

python benchmarks/gpu.py [--only float32 step …] [--output_dir runs/gpu]
python benchmarks/gpu.py --dry_run          without a GPU: small sizes, gloo in NCCL's place

Each check is a process of its own. One that fails, dies or takes longer than --seconds is a row that says so, and the
others go on. results.json and results.md in the output folder are written after each check; beside them lie the logs,
the profile of the step, and what each check found until it ended. A later call with --only renews the rows of the
checks that it names. The status is 1 where a figure is not what it should be.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from catalog.files import complete
from evaluation.markdown import markdown_rows

ROOT = Path(__file__).parent.parent
CHECKS = tuple("install float32 tf32 bfloat16 sleep compile step server transfer grpo rollouts".split())
"""In the order in which they are worth knowing; `gpu_checks.py` has what each does."""
TOGETHER = (
    ("install", "float32", "tf32", "bfloat16", "sleep"),
    ("compile",),
    ("step", "server", "grpo", "rollouts"),
    ("transfer",),
)
"""In a dry run these share a process each, most of whose time are imports."""
PROGRAM = Path(__file__).with_name("gpu_checks.py")
Found = tuple[dict[str, Any], list[dict[str, Any]]]
VERDICTS = {True: "ok", False: "**off**", None: ""}


def run(names: Sequence[str], folder: Path, seconds: float, *, dry_run: bool) -> Found:
    """The environment that a process of these checks names, and the rows of each."""
    for name in names:
        (folder / f"{name}.jsonl").unlink(missing_ok=True)
    argv = [sys.executable, str(PROGRAM), str(folder), *names, *(["--dry_run"] if dry_run else [])]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with open(folder / f"{names[0]}.log", "w") as log:
        process = subprocess.Popen(
            argv, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        code = process.wait(seconds * len(names))
        end = f"its process ended with {code}, see {names[0]}.log"
    except subprocess.TimeoutExpired:
        end = f"it took more than {seconds:g} s"
    finally:
        end_group(process)
    environment, rows = {}, []
    for name in names:
        found = folder / f"{name}.jsonl"
        lines = [json.loads(line) for line in (found.read_text().splitlines() if found.exists() else [])]
        environment |= lines.pop(0)["environment"] if lines else {}
        if not lines or lines[-1]["what"] not in ("whole check", "failed"):
            lines.append(row("failed", end, bound="to its end", ok=False))
        rows += [{"check": name, **one} for one in lines]
    return environment, rows


def row(what: str, value: float | str, unit: str = "", bound: str = "", ok: bool | None = None) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "bound": bound, "ok": ok}


def end_group(process: subprocess.Popen) -> None:
    """The check, and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def earlier(path: Path, dry_run: bool) -> dict[str, Any]:
    """The results that are there, where they are of the same kind of run."""
    results = json.loads(path.read_text()) if path.exists() else {}
    return results if results.get("dry_run") == dry_run else {}


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    title = "Dry run on a CPU: small sizes, gloo" if results["dry_run"] else "First minutes on a GPU"
    about = ", ".join(f"{name} {value}" for name, value in results["environment"].items() if value is not None)
    lines = [
        [one["check"], one["what"], shown(one["value"]), one["unit"], one["bound"], VERDICTS[one["ok"]]]
        for one in results["rows"]
    ]
    return f"# {title}\n\n{about}\n\n{markdown_rows(['check', 'what', 'found', '', 'should be', ''], lines)}\n"


def shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def write(results: dict[str, Any], folder: Path) -> None:
    for name, text in (("results.json", json.dumps(results, indent=1) + "\n"), ("results.md", page(results))):
        with complete(folder / name) as temporary:
            temporary.write_text(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; the status of the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true", help="small sizes on a CPU")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=CHECKS, metavar="NAME", help=" ".join(CHECKS))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--seconds", type=float, default=600, help="that a check may take")
    args = parser.parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("error: torch finds no GPU. Look at `gflowgr doctor`, or add --dry_run to try it on a CPU.")
    if args.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    folder = args.output_dir.resolve()
    results = earlier(folder / "results.json", args.dry_run)
    rows = [one for one in results.get("rows", []) if one["check"] not in args.only]
    results = {"dry_run": args.dry_run, "environment": results.get("environment", {}), "rows": rows}
    for group in TOGETHER if args.dry_run else [(name,) for name in CHECKS]:
        if not (names := [name for name in group if name in args.only]):
            continue
        environment, found = run(names, folder, args.seconds, dry_run=args.dry_run)
        results["environment"] |= environment
        results["rows"] = sorted([*results["rows"], *found], key=lambda one: CHECKS.index(one["check"]))
        write(results, folder)
        print(
            *(
                f"{one['check']}: {one['what']} {shown(one['value'])} {one['unit']} {VERDICTS[one['ok']]}"
                for one in found
            ),
            sep="\n",
            flush=True,
        )
    print(f"\n{folder / 'results.md'}")
    return int(any(one["ok"] is False for one in results["rows"]))


if __name__ == "__main__":
    sys.exit(main())
