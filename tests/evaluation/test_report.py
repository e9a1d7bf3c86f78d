from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation import METRIC_HELP, markdown_table, write_report
from evaluation.report import MISSING

ROWS = {
    "SFT": {"recall@10": 0.0639, "ndcg@10": 0.0331, "gini@10": 0.7},
    "GFlowGR <TB>": {"recall@10": 0.06712, "ndcg@10": 0.0352},
    "GRPO": {"recall@10": 0.06708, "ndcg@10": 0.03, "gini@10": 0.9, "popularity@10": 3.5},
    "item-kNN": {"recall@10": 0.0558, "gini@10": 0.4},
}
CURVES = {
    "SFT": [{"step": 10, "loss": 4.0}, {"step": 10, "eval_recall@10": 0.05}, {"step": 20, "loss": 3.0}],
    "GFlowGR <TB>": [
        {"step": step, "loss": 9.0 - step / 10, "flow/residual_rms": 3.0 / step, "sampler/time": 1.0}
        for step in range(10, 1000, 10)
    ]
    + [{"step": 1000, "eval_recall@10": 0.06}, {"step": 1000, "train_loss": 2.0}],
}
CALIBRATION = {"GFlowGR <TB>": {"log_reward": [-9.0, -7.0, -5.0], "log_prob": [-8.0, -7.0, -6.0]}}
NOTES = ["A hit is an item & not only a semantic ID.", "Beam width 50."]


class Page(HTMLParser):
    """Collects what a test asks for; closing a tag that is not the open one fails the test."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.texts: list[str] = []
        self.bold: list[str] = []
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if text := " ".join(data.split()):
            self.texts.append(text)
            if self.open[-1:] == ["b"]:
                self.bold.append(text)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    write_report(tmp_path / "report.html", "A <title>", NOTES, ROWS, CURVES, CALIBRATION)
    return Page(tmp_path / "report.html")


def test_page_holds_every_method_value_note_and_explanation(page: Page):
    values = {f"{value:.4f}" for row in ROWS.values() for value in row.values()}
    meanings = {METRIC_HELP[name].heading for row in ROWS.values() for name in row}
    assert {"A <title>", MISSING, *ROWS, *NOTES, *values, *meanings} <= set(page.texts)


def test_best_values_are_bold_whichever_way_is_better_and_ties_as_printed(page: Page):
    assert sorted(page.bold) == ["0.0352", "0.0671", "0.0671", "0.4000"]


def test_figures_name_the_panels_and_leave_other_logs_out(page: Page):
    text = " ".join(page.texts)
    assert page.seen.count("svg") == 3
    for part in ("Training loss", "Validation Recall@10", "flow/residual_rms", "optimiser step", "Pearson r = 1.00"):
        assert part in text
    assert "sampler/time" not in text


def test_page_refers_to_nothing_outside_itself(tmp_path: Path, page: Page):
    assert all(link.startswith("#") for link in page.links)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(word in text for word in ("http", "@import", "<script", "<link"))


def test_sections_without_data_are_left_out(tmp_path: Path):
    write_report(tmp_path / "report.html", "Title", [], ROWS, {"SFT": [{"step": 1, "train_loss": 1.0}]}, {})
    page = Page(tmp_path / "report.html")
    assert page.seen.count("svg") == page.seen.count("figure") == 0
    assert page.seen.count("h2") == 1


def test_losses_at_and_below_zero_are_drawn(tmp_path: Path):
    curves = {"GRPO": [{"step": step, "loss": 0.1 - step / 10} for step in range(5)]}
    write_report(tmp_path / "report.html", "Title", [], ROWS, curves, {})
    assert "Training loss" in Page(tmp_path / "report.html").texts


def test_same_input_gives_the_same_page(tmp_path: Path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, "Title", NOTES, ROWS, CURVES, CALIBRATION)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_failed_report_leaves_the_previous_one(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("previous", encoding="utf-8")
    with pytest.raises(ValueError, match=r"without an explanation: \['luck'\]. Add them to METRIC_HELP"):
        write_report(path, "Title", NOTES, {"SFT": {"luck": 1.0}}, CURVES, CALIBRATION)
    assert path.read_text(encoding="utf-8") == "previous"
    assert list(tmp_path.iterdir()) == [path]


def test_markdown_table_worked_out_by_hand():
    rows = {"SFT": {"recall@10": 0.05, "recall@1": 0.01}, "item-kNN": {"recall@10": 0.04}}
    assert markdown_table(rows).splitlines() == [
        "| Method | Recall@1 | Recall@10 |",
        "| --- | ---: | ---: |",
        "| SFT | **0.0100** | **0.0500** |",
        "| item-kNN | – | 0.0400 |",
    ]
