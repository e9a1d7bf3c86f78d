"""What a split holds out, in words and numbers, so that every table and report can say it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class HeldOut:
    """How training and held-out rows were told apart.

    kind: who decided. training, validation, test: what each holds, as the end of a sentence.
    without_history: kind "time": users of a window who have no event before its first one, so that they have no row.
    """

    kind: Literal["leave_one_out", "time", "rows"] = "rows"
    training: str = "training rows of one's own"
    validation: str = "validation rows of one's own"
    test: str = "test rows of one's own"
    without_history: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


LAST_TWO = HeldOut(
    kind="leave_one_out",
    training="all but each user's last two items",
    validation="each user's second last item",
    test="each user's last item",
)
