"""The search of settings: one HTML page that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from catalog.extras import extra
from catalog.files import complete
from evaluation.tuning_figures import course_figure, settings_figure

with extra("report", "The page of a search"):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

State = Literal["complete", "pruned", "failed"]


class Tried(NamedTuple):
    """One trial. value: the metric, of a pruned one as far as it came, None where nothing was measured.

    own: whether its settings are the method's own, as it has them without a search.
    """

    number: int
    state: State
    value: float | None
    seconds: float
    settings: Mapping[str, Any]
    own: bool = False


@dataclass(frozen=True)
class TunedMethod:
    """What a search found of one method.

    best: the number of the trial that was chosen. scales: setting -> how its values are drawn. importance: setting ->
    its share in why values differ, {} where too few trials tell.
    """

    trials: Sequence[Tried]
    best: int
    scales: Mapping[str, Literal["linear", "log", "choice"]]
    importance: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Of all trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def own(self) -> float | None:
        """The metric of the method's own settings, None where they were not tried to the end."""
        return next((trial.value for trial in self.trials if trial.own and trial.state == "complete"), None)

    @property
    def by_value(self) -> list[Tried]:
        """The trials that were measured to their end from best to worst, then the others."""
        return sorted(self.trials, key=lambda t: (t.state != "complete", -(t.value or 0), t.number))


@dataclass(frozen=True)
class TuningPage:
    """A search, and all that the page says of it."""

    title: str
    metric: str
    notes: Sequence[str]
    methods: Mapping[str, TunedMethod]


def write_tuning_page(path: Path, page: TuningPage) -> None:
    """Write the page; `path` holds either the whole page or what it held before."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {
        name: (Markup(course_figure(method, page.metric)), Markup(settings_figure(method, page.metric)))
        for name, method in page.methods.items()
    }
    text = environment.get_template("tuning.html.jinja").render(page=page, figures=figures)
    with complete(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
