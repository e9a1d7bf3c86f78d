from evaluation.markdown import markdown_rows


def test_a_table_of_text_with_bars_in_its_cells():
    assert markdown_rows(["name", "a|b"], [["x", "1"], ["y|z", "2"]], align="right").splitlines() == [
        "| name | a&#124;b |",
        "| --- | ---: |",
        "| x | 1 |",
        "| y&#124;z | 2 |",
    ]
