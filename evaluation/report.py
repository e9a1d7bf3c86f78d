"""The comparison of methods: one HTML page that needs nothing else, and the same tables in Markdown."""

from collections.abc import Mapping
from pathlib import Path

from catalog.extras import extra
from catalog.files import complete
from evaluation.figures import (
    Style,
    breakdown_figure,
    calibration_figure,
    flow_figure,
    method_styles,
    tradeoff_figure,
    training_figure,
)
from evaluation.page_contents import Comparison
from evaluation.tables import breakdown_table, example_table, markdown, metric_tables, significance_table

with extra("report", "The report"):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup


def write_report(path: Path, comparison: Comparison) -> None:
    """Writes one self-contained HTML page; `path` holds either the whole page or what it held before.

    Raises:
        InputError: a metric has no explanation.
    """
    page = _render(comparison)
    with complete(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def markdown_page(comparison: Comparison) -> str:
    """Notes and tables as a Markdown page, the best value of every column in bold, "–" where a method lacks a value.

    Raises:
        InputError: a metric has no explanation.
    """
    tables = metric_tables(comparison.values, comparison.sections)
    titles = {
        "results": "Results",
        "draws": "Ten draws from the policy",
        "match": "Match of policy and reward",
        "cost": "Cost",
    }
    parts = [f"# {comparison.title}", "\n".join(f"- {note}" for note in comparison.notes)]
    for name, table in tables.items():
        parts += [f"## {titles[name]}", markdown(table)]
    if comparison.tests:
        table = significance_table(comparison.tests, comparison.baseline or "")
        parts += [f"## Differences from {comparison.baseline}", markdown(table)]
        parts.append("\n".join(f"- {column.heading}: {column.meaning}." for column in table.columns))
    for what, breakdown in comparison.breakdowns.items():
        parts += [f"## {what}", markdown(breakdown_table({what: breakdown}))]
    for number, example in enumerate(comparison.examples, 1):
        history = " · ".join(example.history)
        parts += [
            f"## User {number}, whose next item is {example.target}",
            f"After {history}.",
            markdown(example_table(example)),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _render(comparison: Comparison) -> str:
    """The page as text."""
    styles = _styles(comparison)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tested = significance_table(comparison.tests, comparison.baseline or "") if comparison.tests else None
    return environment.get_template("report.html.jinja").render(
        comparison=comparison,
        tables=metric_tables(comparison.values, comparison.sections),
        tested=tested,
        broken=breakdown_table(comparison.breakdowns) if comparison.breakdowns else None,
        examples=[(example, example_table(example)) for example in comparison.examples],
        styles=styles,
        figures=_figures(comparison, styles),
    )


def _styles(comparison: Comparison) -> dict[str, Style]:
    """How its methods are drawn: those that were trained come first, in the order of the table."""
    trained = [name for name in comparison.values if name in comparison.curves]
    others = [name for part in (comparison.curves, comparison.calibration, comparison.values) for name in part]
    return method_styles(dict.fromkeys(trained + others))


def _figures(comparison: Comparison, styles: Mapping[str, Style]) -> dict[str, Markup]:
    """The figures that have something to show, by section."""
    drawn = {
        "tradeoff": tradeoff_figure(comparison.values, styles),
        "training": training_figure(comparison.curves, styles),
        "flow": flow_figure(comparison.curves, styles),
    }
    figures = {name: svg for name, svg in drawn.items() if svg is not None}
    if comparison.calibration:
        figures["calibration"] = calibration_figure(comparison.calibration, styles)
    if comparison.breakdowns:
        figures["breakdown"] = breakdown_figure(comparison.breakdowns, styles)
    return {name: Markup(svg) for name, svg in figures.items()}
