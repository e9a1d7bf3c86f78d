"""The tables of a comparison, as cells that the page and Markdown print alike."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from evaluation.breakdown import Breakdown
from evaluation.markdown import markdown_rows
from evaluation.metric_help import COST, DRAWN, MATCH, in_order, metric_help
from evaluation.page_contents import Example, Sections, Values, spread
from evaluation.significance import PairedTest

MISSING = "–"
BEST = "the best value of a column, of all rows; a difference is not yet a significant one"
FOUND = "below 0.05 after the correction"


class Cell(NamedTuple):
    """One value as it is printed, with its spread over seeds."""

    text: str
    bold: bool = False
    spread: str = ""


class Column(NamedTuple):
    """A column below the heading of its group; a note stands below its own heading."""

    group: str
    heading: str
    meaning: str = ""
    note: str = ""


class Table(NamedTuple):
    """Cells by section and row; a section without a heading comes first. bold: what bold print means, "" for none."""

    columns: list[Column]
    sections: dict[str, dict[str, list[Cell]]]
    bold: str = ""
    align: Literal["left", "right"] = "right"

    @property
    def groups(self) -> dict[str, int]:
        """How many columns stand under each group heading."""
        groups = [column.group for column in self.columns]
        return {group: groups.count(group) for group in groups}

    @property
    def spreads(self) -> bool:
        """Whether some value has a spread over seeds."""
        return any(cell.spread for rows in self.sections.values() for row in rows.values() for cell in row)


def metric_tables(values: Values, sections: Sections) -> dict[str, Table]:
    """The tables "results", "draws", "match" and "cost", those that have something to show; see `metric_table`.

    Raises:
        InputError: a metric has no explanation.
    """
    parts: dict[str, list[str]] = {"results": [], "draws": [], "match": [], "cost": []}
    part_of_group = {DRAWN: "draws", MATCH: "match", COST: "cost"}
    for name in metric_names(values):
        parts[part_of_group.get(metric_help(name).group, "results")].append(name)
    return {part: metric_table(values, sections, names) for part, names in parts.items() if names}


def metric_table(values: Values, sections: Sections, names: Sequence[str] | None = None) -> Table:
    """Some metrics, or all, of the methods that have one of them, the best value of every column in bold.

    sections: heading -> methods that stand below it at the end. Raises InputError where a metric has no explanation.
    """
    names = names or metric_names(values)
    shown = {method: {n: row[n] for n in names if n in row} for method, row in values.items()}
    cells = _cells({method: row for method, row in shown.items() if row}, names)
    apart = {method for methods in sections.values() for method in methods}
    parts = {"": [method for method in cells if method not in apart], **sections}
    found = {title: {method: cells[method] for method in part if method in cells} for title, part in parts.items()}
    columns = []
    for metric in map(metric_help, names):
        better = f" ({metric.better} is better)" if metric.better else ""
        columns.append(Column(metric.group, metric.heading, metric.meaning + better))
    return Table(columns, {title: part for title, part in found.items() if part}, BEST)


def significance_table(tests: Mapping[str, Mapping[str, PairedTest]], baseline: str) -> Table:
    """Every method against the baseline, a section for each metric."""
    group = f"Against {baseline}"
    columns = [
        Column(group, "Difference", "mean over users of the method's value less the baseline's, seeds averaged"),
        Column(group, "95 % interval", "of this mean, from a paired bootstrap over users"),
        Column(group, "p, bootstrap", "two-sided, of the same bootstrap"),
        Column(group, "Holm, bootstrap", "the same, corrected for the number of methods in the table"),
        Column(group, "p, Wilcoxon", "two-sided, of the signed-rank test over users, ties by Pratt's rule"),
        Column(group, "Holm, Wilcoxon", "the same, corrected for the number of methods in the table"),
    ]
    return Table(
        columns,
        {metric_help(metric).heading: {m: _test_cells(t) for m, t in some.items()} for metric, some in tests.items()},
        FOUND,
    )


def breakdown_table(breakdowns: Mapping[str, Breakdown]) -> Table:
    """The methods for groups of users, a section for each metric."""
    columns = [
        Column(what, bucket.label, note=f"{bucket.users:,} users")
        for what, breakdown in breakdowns.items()
        for bucket in breakdown.buckets
    ]
    sections: dict[str, dict[str, list[Cell]]] = {}
    for breakdown in breakdowns.values():
        for metric, methods in breakdown.means.items():
            rows = sections.setdefault(metric_help(metric).heading, {})
            for method, values in methods.items():
                rows.setdefault(method, []).extend(Cell(_printed(metric, value)) for value in values)
    return Table(columns, sections)


def example_table(example: Example) -> Table:
    """What each method recommends to one user, hits in bold."""
    places = max(len(shown) for shown in example.lists.values())
    rows = {
        method: [Cell(f"{item.title} ✓" if item.hit else item.title, item.hit) for item in shown]
        for method, shown in example.lists.items()
    }
    return Table([Column("", str(place)) for place in range(1, places + 1)], {"": rows}, align="left")


def markdown_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Method -> metric -> value as a Markdown table, the best value of every column in bold, "–" where one is missing.

    Raises:
        InputError: a metric has no explanation.
    """
    values = {method: {name: [value] for name, value in row.items()} for method, row in rows.items()}
    return markdown(metric_table(values, sections={}))


def markdown(table: Table) -> str:
    """The table in Markdown; the heading of a section is a row of its own."""
    heads = [f"{column.heading} ({column.note})" if column.note else column.heading for column in table.columns]
    lines: list[list[str]] = []
    for heading, rows in table.sections.items():
        if heading:
            lines.append([f"*{heading}*", *[""] * len(heads)])
        lines += [[name, *map(_markdown, row)] for name, row in rows.items()]
    return markdown_rows(["Method", *heads], lines, table.align)


def aligned_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Texts in Markdown, padded for a terminal: the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    padded = [[r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:], widths[1:], strict=True))] for r in lines]
    first = [heads[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(heads[1:], widths[1:], strict=True))]
    return markdown_rows(first, padded, "right")


def metric_names(values: Values) -> list[str]:
    """The metrics that some method has, in the order of `METRIC_HELP`. Raises InputError for an unknown one."""
    return in_order(name for metrics in values.values() for name in metrics)


def _cells(values: Values, names: Sequence[str]) -> dict[str, list[Cell]]:
    """Printed values, method by method; values that print alike are equally good."""
    means = {method: {name: spread(some) for name, some in row.items()} for method, row in values.items()}
    best = {name: _best(name, [row[name][0] for row in means.values() if name in row]) for name in names}
    return {
        method: [_cell(name, *row[name], best[name]) if name in row else Cell(MISSING) for name in names]
        for method, row in means.items()
    }


def _cell(name: str, mean: float, deviation: float | None, best: str | None) -> Cell:
    text = _printed(name, mean)
    return Cell(text, text == best, "" if deviation is None else f"± {_printed(name, deviation)}")


def _best(name: str, values: Iterable[float]) -> str | None:
    better = metric_help(name).better
    if better is None:
        return None
    return _printed(name, max(values) if better == "higher" else min(values))


def _printed(name: str, value: float) -> str:
    return format(value, metric_help(name).form)


def _test_cells(test: PairedTest) -> list[Cell]:
    return [
        Cell(f"{test.difference:+.4f}"),
        Cell(f"{test.low:+.4f} to {test.high:+.4f}"),
        Cell(_p(test.p_bootstrap)),
        Cell(_p(test.holm_bootstrap), test.holm_bootstrap < 0.05),
        Cell(_p(test.p_wilcoxon)),
        Cell(_p(test.holm_wilcoxon), test.holm_wilcoxon < 0.05),
    ]


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else "< 0.0001"


def _markdown(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.bold else cell.text
    return f"{text} {cell.spread}" if cell.spread else text
