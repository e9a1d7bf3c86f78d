from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from evaluation import break_down, metric_help
from evaluation.page_contents import Comparison, Example, Shown
from evaluation.report import markdown_page, write_report
from evaluation.significance import paired_tests
from evaluation.tables import MISSING, markdown_table

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


def over_seeds(rows):
    return {method: {name: [value] for name, value in row.items()} for method, row in rows.items()}


PLAIN = Comparison(
    "A <title>", over_seeds(ROWS), NOTES, curves={name: [log] for name, log in CURVES.items()}, calibration=CALIBRATION
)
PER_USER = {
    "SFT": {"recall@10": np.array([0.0, 1, 0, 1, 0, 0, 0, 0])},
    "GFlowGR <TB>": {"recall@10": np.array([1.0, 1, 1, 1, 0, 1, 0, 1])},
}
FULL = replace(
    PLAIN,
    values=over_seeds(ROWS) | {"SFT": {"recall@10": [0.06, 0.08], "tokens": [2e6, 4e6]}},
    baseline="SFT",
    tests={"recall@10": paired_tests({"GFlowGR <TB>": PER_USER["GFlowGR <TB>"]["recall@10"]}, np.zeros(8))},
    breakdowns={"Length of the history": break_down(np.arange(8) + 3, PER_USER, ("recall@10",), parts=2)},
    examples=[Example(["Up | down", "Alien"], "Heat", {"SFT": [Shown("Seven", False), Shown("Heat", True)]})],
)


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
    write_report(tmp_path / "report.html", PLAIN)
    return Page(tmp_path / "report.html")


def test_page_holds_every_method_value_note_and_explanation(page: Page):
    values = {f"{value:.4f}" for row in ROWS.values() for value in row.values()}
    meanings = {metric_help(name).heading for row in ROWS.values() for name in row}
    assert {"A <title>", MISSING, *ROWS, *NOTES, *values, *meanings} <= set(page.texts)


def test_best_values_are_bold_whichever_way_is_better_and_ties_as_printed(page: Page):
    assert sorted(page.bold) == ["0.0352", "0.0671", "0.0671", "0.4000"]


def test_figures_name_the_panels_and_leave_other_logs_out(page: Page):
    text = " ".join(page.texts)
    assert page.seen.count("svg") == 3
    for part in ("Training loss", "Validation Recall@10", "flow/residual_rms", "optimizer step", "Pearson r = 1.00"):
        assert part in text
    assert "sampler/time" not in text


def test_accuracy_stands_against_variety_for_the_methods_that_have_both(tmp_path: Path):
    both = {"SFT": {"ndcg@10": 0.3, "coverage@10": 0.5}, "item-kNN": {"ndcg@10": 0.2, "coverage@10": 0.9}}
    write_report(tmp_path / "report.html", Comparison("Title", over_seeds(both | {"GRPO": {"ndcg@10": 0.1}})))
    page = Page(tmp_path / "report.html")
    drawn = page.texts[page.texts.index("NDCG@10", page.texts.index("Items") + 1) :]
    assert page.seen.count("svg") == 1
    assert {"SFT", "item-kNN"} <= set(drawn) and "GRPO" not in drawn

    write_report(tmp_path / "report.html", Comparison("Title", over_seeds({"SFT": both["SFT"]})))
    assert "svg" not in Page(tmp_path / "report.html").seen


def test_plots_take_the_cutoffs_that_methods_have_in_common(tmp_path: Path):
    both = {"SFT": {"ndcg@5": 0.3, "coverage@10": 0.5}, "GRPO": {"ndcg@5": 0.2, "coverage@10": 0.9}}
    curves = {
        "SFT": [[{"step": 1, "eval_recall@5": 0.1, "eval_recall@10": 0.2}]],
        "GRPO": [[{"step": 1, "eval_recall@5": 0.1, "eval_recall@20": 0.3}]],
        "DPO": [[{"step": 1, "loss": 0.3}]],
    }
    write_report(tmp_path / "report.html", Comparison("Title", over_seeds(both), curves=curves))
    text = " ".join(Page(tmp_path / "report.html").texts)
    assert "Validation Recall@5" in text and "Validation Recall@10" not in text and "Training loss" in text
    assert text.count("NDCG@5") >= 2  # the heading of the table, and of the picture
    curves["GRPO"][0][0].pop("eval_recall@5")
    write_report(tmp_path / "report.html", Comparison("Title", over_seeds(both), curves=curves))
    assert "Validation" not in " ".join(Page(tmp_path / "report.html").texts)


def test_page_refers_to_nothing_outside_itself(tmp_path: Path, page: Page):
    assert all(link.startswith("#") for link in page.links)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(word in text for word in ("http", "@import", "<script", "<link"))


def test_sections_without_data_are_left_out(tmp_path: Path):
    bare = Comparison("Title", over_seeds(ROWS), curves={"SFT": [[{"step": 1, "train_loss": 1.0}]]})
    write_report(tmp_path / "report.html", bare)
    page = Page(tmp_path / "report.html")
    assert page.seen.count("svg") == page.seen.count("figure") == 0
    assert page.seen.count("h2") == 1


def test_every_method_has_a_panel_for_its_loss(tmp_path: Path):
    log = [{"step": step, "loss": 0.1 - step / 10} for step in range(5)]
    write_report(tmp_path / "report.html", replace(PLAIN, curves={f"method {i}": [log] for i in range(6)}))
    texts = Page(tmp_path / "report.html").texts
    assert [texts.count(f"method {i}") for i in range(6)] == [1] * 6
    assert not any("Validation" in text for text in texts)


def test_same_input_gives_the_same_page(tmp_path: Path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, FULL)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_failed_report_leaves_the_previous_one(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("previous", encoding="utf-8")
    with pytest.raises(ValueError, match=r"without an explanation: \['luck'\]. Add them to METRIC_HELP"):
        write_report(path, replace(PLAIN, values={"SFT": {"luck": [1.0]}}))
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


def test_markdown_of_two_seeds_is_mean_and_sample_standard_deviation():
    lines = markdown_page(FULL).splitlines()
    assert "| SFT | **0.0700** ± 0.0141 | – | – | – |" in lines
    assert "| SFT | **3,000,000** ± 1,414,214 |" in lines  # of the table of costs


def test_markdown_holds_tests_groups_of_users_and_examples():
    lines = markdown_page(FULL).splitlines()
    (test,) = [line for line in lines if line.startswith("| GFlowGR <TB> | +0.7500 |")]
    assert test.count("|") == 8
    assert "| Method | 3–6 (4 users) | 7–10 (4 users) |" in lines
    assert "| GFlowGR <TB> | 1.0000 | 0.5000 |" in lines
    assert "| SFT | Seven | **Heat ✓** |" in lines
    assert "After Up | down · Alien." in lines


def test_a_bar_in_a_title_does_not_end_its_cell():
    example = Example(["Alien"], "Heat", {"SFT": [Shown("Up | down", False)]})
    assert "| SFT | Up &#124; down |" in markdown_page(replace(FULL, examples=[example])).splitlines()


def test_page_of_everything_holds_all_parts_and_stays_whole(tmp_path: Path):
    write_report(tmp_path / "report.html", FULL)
    page = Page(tmp_path / "report.html")
    assert {"Differences from SFT", "Against SFT", "Cost", "Heat ✓", "± 0.0141", "3–6", "4 users"} <= set(page.texts)
    assert page.seen.count("svg") == 4 and all(link.startswith("#") for link in page.links)


def test_curves_of_several_seeds_are_drawn_at_their_common_steps(tmp_path: Path):
    logs = [[{"step": step, "loss": 2.0 + seed} for step in range(1, 4 + seed)] for seed in range(3)]
    write_report(tmp_path / "report.html", replace(PLAIN, curves={"SFT": logs}))
    assert any("Training loss" in text for text in Page(tmp_path / "report.html").texts)
