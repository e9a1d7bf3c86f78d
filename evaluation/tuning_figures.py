"""A search of settings as SVG text: its course, which settings decide, and the trials by the value of each."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.extras import extra
from evaluation.figures import COLORS, LOOK, page_svg

if TYPE_CHECKING:
    from evaluation.tuning_page import Tried, TunedMethod

with extra("report", "The page of a search"):
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

MOST = 30
"""Letters of a choice that a picture shows."""


def course_figure(method: "TunedMethod", metric: str) -> str:
    """The metric of each trial in the order of the search, the best so far, and what each setting decides."""
    label = f"{metric} of each trial in the order of the search, and the importance of settings"
    with rc_context(LOOK | {"svg.hashsalt": label}):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[2, 1])
        measured = [trial for trial in method.trials if trial.value is not None]
        _points(left, [trial.number for trial in measured], measured)
        whole = [trial for trial in measured if trial.state == "complete"]
        best = np.maximum.accumulate([trial.value or 0 for trial in whole])
        left.step([trial.number for trial in whole], best, where="post", color=COLORS[1], lw=1.6)
        left.set(title=f"{metric}, validation items", xlabel="trial")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        names = sorted(method.importance, key=lambda name: method.importance[name])
        right.barh(names, [method.importance[name] for name in names], color=COLORS[0])
        right.set(title="Importance" if names else "Importance: too few trials", xlim=(0, 1))
        return page_svg(figure, label)


def settings_figure(method: "TunedMethod", metric: str, columns: int = 3) -> str:
    """A panel for each setting: the metric of the trials by its value."""
    label = f"{metric} of the trials by the value of each setting"
    rows = -(-len(method.scales) // columns)
    with rc_context(LOOK | {"svg.hashsalt": label}):
        figure = Figure(figsize=(9.6, 0.4 + 2.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for (name, scale), axis in zip(method.scales.items(), axes, strict=False):
            measured = [trial for trial in method.trials if trial.value is not None and name in trial.settings]
            values: list[Any] = [trial.settings[name] for trial in measured]
            if scale == "choice":
                values = [json.dumps(value).strip('"')[:MOST] for value in values]
            _points(axis, values, measured)
            axis.set(title=name, xscale="log" if scale == "log" else "linear") if scale != "choice" else axis.set_title(
                name
            )
        for axis in axes[len(method.scales) :]:
            axis.remove()
        return page_svg(figure, label)


def _points(axis: "Axes", places: list[Any], trials: "list[Tried]") -> None:
    """Complete trials filled, pruned ones hollow; later ones darker."""
    last = max((trial.number for trial in trials), default=0) or 1
    for place, trial in zip(places, trials, strict=True):
        whole, shade = trial.state == "complete", 0.35 + 0.65 * trial.number / last
        face = COLORS[0] if whole else "none"
        axis.plot([place], [trial.value or 0.0], "o", ms=5, color=COLORS[0], markerfacecolor=face, alpha=shade)
