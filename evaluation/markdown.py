"""Tables in Markdown, for pages, terminals and trackers."""

from collections.abc import Iterable, Sequence
from typing import Literal


def markdown_rows(head: Sequence[str], rows: Iterable[Sequence[str]], align: Literal["left", "right"] = "left") -> str:
    """A Markdown table of text; `align` is that of all columns but the first, which is to the left."""
    rule = ["---", *["---:" if align == "right" else "---"] * (len(head) - 1)]
    return "\n".join(_line(cells) for cells in [_escaped(head), rule, *map(_escaped, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "&#124;") for cell in cells]
