"""A sweep's stages in this process, one after the other: its programs are the same, and are imported once."""

from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

from experiments.stages import Stage


def run_here(stages: dict[str, Stage], jobs: int, environment: dict[str, str], times: Path) -> None:
    """In place of `run_stages`."""
    times.parent.mkdir(parents=True, exist_ok=True)
    times.touch()
    for name in TopologicalSorter({name: stage.needs & stages.keys() for name, stage in stages.items()}).static_order():
        _, program, *argv = stages[name].command
        import_module(f"recipes.{Path(program).stem}").main(argv)
