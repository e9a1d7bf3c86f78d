"""The comparison of methods: one HTML page that needs nothing else, and a Markdown table."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from catalog.files import complete
from evaluation.figures import (
    Calibration,
    Records,
    Style,
    calibration_figure,
    curves_figure,
    flow_panels,
    learning_panels,
    method_styles,
)
from evaluation.metric_help import METRIC_HELP

Rows = Mapping[str, Mapping[str, float]]

MISSING = "–"
UNTRAINED = ("itemknn", "popularity")  # beginnings of method names, in lower case and without punctuation


class Cell(NamedTuple):
    """One value as it is printed."""

    text: str
    best: bool


def write_report(
    path: Path,
    title: str,
    notes: Sequence[str],
    rows: Rows,
    curves: Mapping[str, Records],
    calibration: Calibration,
) -> None:
    """Writes one self-contained HTML page; `path` holds either the whole page or what it held before.

    Args:
        path: the page to write; its folder is made where it is missing.
        title: heading of the page.
        notes: what a reader must know to judge the numbers: data, what a hit means, beam width, seeds, masking.
        rows: method -> metric -> value; a method may lack metrics. Names are those of `METRIC_HELP`.
        curves: method -> the records `transformers.Trainer` logs, each with its `step`.
        calibration: method -> `log_reward`, which is log (R / Z), and `log_prob`, log P_F(item); `[points]`, in nats.

    Raises:
        ValueError: a metric has no explanation.
    """
    page = _render(title, notes, rows, curves, calibration)
    with complete(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def markdown_table(rows: Rows) -> str:
    """The rows as a Markdown table, the best value of every column in bold, "–" where a method lacks a value.

    Raises:
        ValueError: a metric has no explanation.
    """
    names = _columns(rows)
    lines = [["Method", *(METRIC_HELP[name].heading for name in names)], ["---", *("---:" for _ in names)]]
    lines += [[method, *(f"**{c.text}**" if c.best else c.text for c in row)] for method, row in _cells(rows).items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _render(
    title: str, notes: Sequence[str], rows: Rows, curves: Mapping[str, Records], calibration: Calibration
) -> str:
    """The page as text."""
    columns = [METRIC_HELP[name] for name in _columns(rows)]
    groups = [metric.group for metric in columns]
    cells = _cells(rows)
    trained = {method: row for method, row in cells.items() if not _is_untrained(method)}
    styles = method_styles(dict.fromkeys([*trained, *curves, *calibration]))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        notes=notes,
        columns=columns,
        groups={group: groups.count(group) for group in groups},
        trained=trained,
        untrained={method: row for method, row in cells.items() if method not in trained},
        styles=styles,
        figures=_figures(curves, calibration, styles),
    )


def _figures(curves: Mapping[str, Records], calibration: Calibration, styles: Mapping[str, Style]) -> dict[str, Markup]:
    """The figures that have something to show, by section."""
    panels = {"learning": learning_panels(curves), "flow": flow_panels(curves)}
    figures = {name: curves_figure(curves, shown, styles) for name, shown in panels.items() if shown}
    if calibration:
        figures["calibration"] = calibration_figure(calibration, styles)
    return {name: Markup(svg) for name, svg in figures.items()}


def _columns(rows: Rows) -> list[str]:
    """The metrics that some method has, in the order of `METRIC_HELP`."""
    present = {name for metrics in rows.values() for name in metrics}
    if unknown := sorted(present - set(METRIC_HELP)):
        raise ValueError(f"Metrics without an explanation: {unknown}. Add them to METRIC_HELP.")
    return [name for name in METRIC_HELP if name in present]


def _cells(rows: Rows) -> dict[str, list[Cell]]:
    """Printed values, method by method; values that print alike are equally good."""
    columns = _columns(rows)
    best = {name: _best(name, [metrics[name] for metrics in rows.values() if name in metrics]) for name in columns}
    printed = {
        method: {name: f"{metrics[name]:.4f}" if name in metrics else MISSING for name in columns}
        for method, metrics in rows.items()
    }
    return {method: [Cell(text, text == best[name]) for name, text in row.items()] for method, row in printed.items()}


def _best(name: str, values: Iterable[float]) -> str | None:
    better = METRIC_HELP[name].better
    return None if better is None else f"{max(values) if better == 'higher' else min(values):.4f}"


def _is_untrained(method: str) -> bool:
    return re.sub(r"[^a-z]", "", method.lower()).startswith(UNTRAINED)
