"""Variety and accuracy, training curves, calibration and groups of users as SVG text that can stand inside a page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from catalog.extras import extra
from evaluation.breakdown import Breakdown
from evaluation.metric_help import metric_help
from evaluation.page_contents import Calibration, Records, Values, spread
from evaluation.ranking import main_cutoff

with extra("report", "The report"):
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

Curves = Mapping[str, Sequence[Records]]
"""Method -> for each seed the logged records."""

# Okabe and Ito's colors, told apart with any color vision; without their yellow, which is lost on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", ":")
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, and in the font of the page
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9a9a9a",
    "axes.labelcolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9e9e6",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "legend.frameon": False,
}


class Style(NamedTuple):
    """How one method is drawn, the same in every panel."""

    color: str
    dash: str

    @property
    def border(self) -> str:
        """The same line in CSS."""
        return {"-": "solid", "--": "dashed", ":": "dotted"}[self.dash] + f" {self.color}"

    @property
    def marker(self) -> str:
        """The same for a point."""
        return {"-": "o", "--": "s", ":": "^"}[self.dash]


class Panel(NamedTuple):
    """One small plot of a logged value over the optimizer steps."""

    title: str
    unit: str


def method_styles(names: Iterable[str]) -> dict[str, Style]:
    """A color for each method, with another dash once the colors are used up."""
    styles = [Style(color, dash) for dash in DASHES for color in COLORS]
    return dict(zip(names, cycle(styles), strict=False))


MATCHING = {
    "eval_tv": Panel("Total variation to R / Z, held out", "share"),
    "eval_kl": Panel("KL(R / Z || P_F), held out", "nats"),
    "eval_effective_items": Panel("Effective items of P_F", "items"),
}
SHARES = ("flow/", "reward/target_mass", "reward/floor_mass", "reward/rest_mass", "eval_entropy_")


def flow_panels(curves: Curves) -> dict[str, Panel]:
    """A panel for each distance to the reward, and for each logged `flow/...`, share of the reward and entropy."""
    logged = _logged_names(curves)
    names = sorted(name for name in logged if name.startswith(SHARES))
    units = {"share": "share", "mass": "share", "correlation": "correlation"}
    panels = {name: Panel(name, units.get(name.rsplit("_", 1)[-1], "nats")) for name in names}
    return {name: panel for name, panel in MATCHING.items() if name in logged} | panels


def training_panels(curves: Curves) -> dict[str, Panel]:
    """Training loss, then validation recall at a cut-off that all methods with such a recall log; those that are there.

    The cut-off is 10, or the nearest to it.
    """
    panels = {"loss": Panel("Training loss", "in its own unit")} if "loss" in _logged_names(curves) else {}
    logged = [cutoffs for seeds in curves.values() if (cutoffs := _cutoffs(_logged_names({"": seeds}), "eval_recall"))]
    if logged and (common := set.intersection(*logged)):
        k = main_cutoff([*common])
        panels[f"eval_recall@{k}"] = Panel(f"Validation Recall@{k}", "share of users")
    return panels


def _cutoffs(names: Iterable[str], kind: str) -> set[int]:
    """The cut-offs of a kind of metric among these."""
    return {int(k) for name in names for metric, _, k in [name.partition("@")] if metric == kind and k.isdigit()}


def tradeoff_figure(values: Values, styles: Mapping[str, Style]) -> str | None:
    """A point per method, variety to the right and accuracy upwards, with the deviation over seeds; None below two.

    Accuracy is NDCG@10, or that of the nearest cut-off.
    """
    if not (cutoffs := _cutoffs((name for row in values.values() for name in row), "ndcg")):
        return None
    drawn = ("coverage@10", f"ndcg@{main_cutoff([*cutoffs])}")
    points = {m: [spread(row[name]) for name in drawn] for m, row in values.items() if {*drawn} <= row.keys()}
    if len(points) < 2:
        return None
    variety, accuracy = map(metric_help, drawn)
    label = f"{accuracy.heading} against {variety.heading}"
    with rc_context(LOOK | {"svg.hashsalt": label}):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        axis = figure.subplots()
        for method, ((x, x_sd), (y, y_sd)) in points.items():
            color, marker = styles[method].color, styles[method].marker
            axis.errorbar(x, y, y_sd, x_sd, fmt=marker, color=color, ms=6, elinewidth=1, label=method)
        axis.set(xlabel=variety.meaning, title=accuracy.heading)
        figure.legend(loc="outside right upper")
        return page_svg(figure, label)


def training_figure(curves: Curves, styles: Mapping[str, Style], columns: int = 4) -> str | None:
    """What `training_panels` finds, a panel for each method that logs it; None if it finds nothing.

    Steps and losses have an axis of their own in every panel, as runs differ in length and objectives in unit; recall
    has the same one in all. Lines are those of `flow_figure`.
    """
    panels = training_panels(curves)
    if not panels:
        return None
    columns = max(2, min(columns, len(curves)))
    label = f"{_titles(panels)} of each method over the optimizer steps"
    with rc_context(LOOK | {"svg.hashsalt": label}):
        rows = -(-len(curves) // columns)
        figure = Figure(figsize=(9.6, len(panels) * (0.5 + 1.9 * rows)), layout="constrained")
        blocks = np.ravel(figure.subfigures(len(panels), 1, squeeze=False))
        for (key, panel), block in zip(panels.items(), blocks, strict=True):
            block.suptitle(f"{panel.title}, {panel.unit}", x=0.01, ha="left", fontsize=10.5, fontweight="bold")
            logged = {name: _logged(seeds, key) for name, seeds in curves.items()}
            found = {name: lines for name, lines in logged.items() if lines}
            axes = block.subplots(rows, columns, squeeze=False, sharey="none" if key == "loss" else "all").ravel()
            for (name, lines), axis in zip(found.items(), axes, strict=False):
                _draw_line(axis, lines, styles[name])
                axis.set_title(name, fontweight="normal")
                axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            for axis in axes[len(found) :]:
                axis.remove()
        return page_svg(figure, label)


def flow_figure(curves: Curves, styles: Mapping[str, Style], columns: int = 3) -> str | None:
    """A panel for each value that `flow_panels` finds, one line per method; None if it finds none.

    A faint line is the log and a strong one its running mean; with several seeds the strong one is the mean of theirs,
    at the steps that all of them logged, in a band from the lowest to the highest.
    """
    panels = flow_panels(curves)
    if not panels:
        return None
    label = f"{_titles(panels)} over the optimizer steps"
    rows = -(-len(panels) // columns)
    with rc_context(LOOK | {"svg.hashsalt": label}):
        figure = Figure(figsize=(9.6, 0.5 + 5.8 / columns * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for (key, panel), axis in zip(panels.items(), axes, strict=False):
            for name, seeds in curves.items():
                if found := _logged(seeds, key):
                    _draw_line(axis, found, styles[name])
            axis.set(title=panel.title, xlabel="optimizer step", ylabel=panel.unit)
        for axis in axes[len(panels) :]:
            axis.remove()
        drawn = [name for name, seeds in curves.items() if not panels.keys().isdisjoint(_logged_names({name: seeds}))]
        _add_legend(figure, drawn, styles)
        return page_svg(figure, label)


def calibration_figure(calibration: Calibration, styles: Mapping[str, Style]) -> str:
    """Density of log P_F(item) against log (R / Z), one panel per method on common axes, with the diagonal."""
    label = "log P_F(item) against log (R / Z)"
    columns = min(4, len(calibration))
    rows = -(-len(calibration) // columns)
    side = 9.6 / max(3, columns)
    values = np.concatenate([np.concatenate([c["log_reward"], c["log_prob"]]) for c in calibration.values()])
    margin = 0.03 * (values.max() - values.min())
    low, high = values.min() - margin, values.max() + margin
    with rc_context(LOOK | {"svg.hashsalt": label}):
        figure = Figure(figsize=(side * columns, (side + 0.3) * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for (name, points), axis in zip(calibration.items(), axes, strict=False):
            shades = LinearSegmentedColormap.from_list(name, ["#ecece8", styles[name].color])
            target, policy = np.asarray(points["log_reward"]), np.asarray(points["log_prob"])
            axis.hexbin(target, policy, gridsize=36, extent=(low, high, low, high), bins="log", mincnt=1, cmap=shades)
            axis.plot([low, high], [low, high], color="#333333", lw=1, ls=(0, (4, 3)))
            axis.set_title(f"{name}\nPearson r = {np.corrcoef(target, policy)[0, 1]:.2f}")
            axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            axis.set(xlabel="log (R / Z), nats", ylabel="log P_F(item), nats")
        for axis in axes[len(calibration) :]:
            axis.remove()
        return page_svg(figure, label)


def breakdown_figure(breakdowns: Mapping[str, Breakdown], styles: Mapping[str, Style]) -> str:
    """A panel for each metric (rows) and for what tells users apart (columns), one line per method over the buckets."""
    label = f"Accuracy by {' and '.join(what.lower() for what in breakdowns)}"
    metrics = list(next(iter(breakdowns.values())).means)
    with rc_context(LOOK | {"svg.hashsalt": label}):
        figure = Figure(figsize=(9.6, 0.5 + 2.3 * len(metrics)), layout="constrained")
        axes = figure.subplots(len(metrics), len(breakdowns), squeeze=False, sharey="row")
        for row, metric in zip(axes, metrics, strict=True):
            for axis, (what, breakdown) in zip(row, breakdowns.items(), strict=True):
                names = [bucket.label for bucket in breakdown.buckets]
                for method, values in breakdown.means[metric].items():
                    style = styles[method]
                    axis.plot(names, values, color=style.color, ls=style.dash, lw=1.6, marker="o", ms=3.5)
                axis.set(title=metric_help(metric).heading, xlabel=what)
            row[0].set_ylim(bottom=0)
        _add_legend(figure, list(next(iter(breakdowns.values())).means[metrics[0]]), styles)
        return page_svg(figure, label)


def _add_legend(figure: Figure, names: Sequence[str], styles: Mapping[str, Style]) -> None:
    handles = [Line2D([], [], color=styles[n].color, ls=styles[n].dash, lw=2, label=n) for n in names]
    rows = -(-len(names) // 6)
    figure.legend(handles=handles, loc="outside upper left", ncols=-(-len(names) // rows))


def _titles(panels: Mapping[str, Panel]) -> str:
    return ", ".join(panel.title for panel in panels.values())


def _logged(seeds: Sequence[Records], key: str) -> list[pd.Series]:
    """The values of the seeds that log it, by step."""
    frames = [pd.DataFrame(list(records)) for records in seeds]
    return [frame.set_index("step")[key].dropna() for frame in frames if key in frame]


def _logged_names(curves: Curves) -> set[str]:
    return {name for seeds in curves.values() for records in seeds for record in records for name in record}


def _draw_line(axis: Axes, seeds: Sequence[pd.Series], style: Style) -> None:
    window = max(1, len(seeds[0]) // 20)
    if len(seeds) == 1 and window > 1:
        axis.plot(seeds[0].index, seeds[0], color=style.color, lw=0.8, alpha=0.22)
    smooth = [values.groupby(level=0).last().rolling(window, min_periods=1, center=True).mean() for values in seeds]
    common = pd.concat(smooth, axis=1).dropna()  # the steps that all seeds have logged
    marker = "o" if len(common) <= 30 else ""
    if len(seeds) > 1:
        axis.fill_between(common.index, common.min(axis=1), common.max(axis=1), color=style.color, alpha=0.15, lw=0)
    axis.plot(common.index, common.mean(axis=1), color=style.color, ls=style.dash, lw=1.8, marker=marker, ms=3.5)


def page_svg(figure: Figure, label: str) -> str:
    """The `<svg>` element without schema addresses, which HTML does not need, and group ids, which would clash."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def standalone(svg: str) -> str:
    """The same as a file of its own."""
    schemas = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return svg.replace("<svg ", f"<svg {schemas} ", 1)
