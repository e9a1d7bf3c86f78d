"""The comparison of methods: one HTML page that needs nothing else, and a Markdown table."""

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
from evaluation.metric_help import MATCH, METRIC_HELP, Metric

Rows = Mapping[str, Mapping[str, float]]

MISSING = "–"


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
    sections: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes one self-contained HTML page; `path` holds either the whole page or what it held before.

    Args:
        path: the page to write; its folder is made where it is missing.
        title: heading of the page.
        notes: what a reader must know to judge the numbers: data, what a hit means, beam width, seeds, masking.
        rows: method -> metric -> value; a method may lack metrics. Names are those of `METRIC_HELP`.
        curves: method -> the records `transformers.Trainer` logs, each with its `step`.
        calibration: method -> `log_reward`, which is log (R / Z), and `log_prob`, log P_F(item); `[points]`, in nats.
        sections: heading -> methods that stand below it at the end of the table, apart from the others.

    Raises:
        ValueError: a metric has no explanation.
    """
    page = _render(title, notes, rows, curves, calibration, sections or {})
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


class Table(NamedTuple):
    """Some columns of the rows: cells by section and method; the first section has no heading."""

    columns: list[Metric]
    sections: dict[str, dict[str, list[Cell]]]

    @property
    def groups(self) -> dict[str, int]:
        """How many columns stand under each group heading."""
        groups = [metric.group for metric in self.columns]
        return {group: groups.count(group) for group in groups}


def _table(rows: Rows, names: Sequence[str], sections: Mapping[str, Sequence[str]]) -> Table:
    shown = {method: {name: row[name] for name in names if name in row} for method, row in rows.items()}
    cells = _cells({method: row for method, row in shown.items() if row})
    apart = {method for methods in sections.values() for method in methods}
    parts = {"": [method for method in rows if method not in apart], **sections}
    found = {title: {method: cells[method] for method in part if method in cells} for title, part in parts.items()}
    return Table([METRIC_HELP[name] for name in names], {title: part for title, part in found.items() if part})


def _render(
    title: str,
    notes: Sequence[str],
    rows: Rows,
    curves: Mapping[str, Records],
    calibration: Calibration,
    sections: Mapping[str, Sequence[str]],
) -> str:
    """The page as text."""
    names = _columns(rows)
    match = [name for name in names if METRIC_HELP[name].group == MATCH]
    styles = method_styles(dict.fromkeys([*(name for name in rows if name in curves), *curves, *calibration]))
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
        ranking=_table(rows, [name for name in names if name not in match], sections),
        match=_table(rows, match, sections) if match else None,
        styles=styles,
        figures=_figures(curves, calibration, styles),
    )


def _figures(curves: Mapping[str, Records], calibration: Calibration, styles: Mapping[str, Style]) -> dict[str, Markup]:
    """The figures that have something to show, by section."""
    panels = {"learning": (learning_panels(curves), 2), "flow": (flow_panels(curves), 3)}
    figures = {name: curves_figure(curves, shown, styles, n) for name, (shown, n) in panels.items() if shown}
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
