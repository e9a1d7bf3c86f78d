"""What requests to a recommender's server may hold."""

from typing import Annotated, Any, NoReturn, Self, TypeVar

from catalog.errors import InputError
from catalog.extras import extra

with extra("server", "An HTTP server"):
    from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_HISTORIES = 1024
"""Histories of one request."""

MOST_EVENTS = 10_000
"""Events of one history, or items to exclude from one list."""

MOST_ITEMS = 1000
"""Items of one list, and the width of the beam that finds them."""

MOST_BYTES = 8 * 2**20
"""Of the body of one request."""

Asked = TypeVar("Asked", bound="Histories")


class Histories(BaseModel):
    """One history or several, lists of item ids, oldest first. catalog: the fingerprint that the server's must have.

    A history that is no list of item ids has an error in its place, and the others are answered.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    histories: Annotated[list[Any], Field(min_length=1, max_length=MOST_HISTORIES)] | None = None
    history: Any = None
    catalog: str | None = Field(None, max_length=64)

    @model_validator(mode="after")
    def one_of_both(self) -> Self:
        if (self.histories is None) == (self.history is None):
            raise ValueError("give either histories, or one history")
        return self

    @property
    def lists(self) -> list[Any]:
        """The histories. Raises InputError for one that is too long."""
        lists = [self.history] if self.histories is None else self.histories
        for row, history in enumerate(lists):
            if isinstance(history, list) and len(history) > MOST_EVENTS:
                refuse("histories", len(history), f"history {row} has more than {MOST_EVENTS} events")
        return lists


class Recommend(Histories):
    """The k best items for each history. exclude: items that are not wanted, for all histories or a list for each."""

    k: int = Field(10, ge=1, le=MOST_ITEMS)
    exclude_seen: bool = True
    exclude: Annotated[list[Any], Field(max_length=MOST_EVENTS)] | None = None
    beam_width: int | None = Field(None, ge=1, le=MOST_ITEMS)
    diversity: float = Field(0.0, ge=0, allow_inf_nan=False)

    def excluded(self) -> list[list[str | int]]:
        """What each history's list leaves out.

        Raises InputError for another number of lists than of histories, and for a list that is too long or holds what
        is no item id.
        """
        count, exclude = len(self.lists), self.exclude or []
        for_all = not any(isinstance(one, list) for one in exclude)
        lists = [exclude] if for_all else exclude
        if not for_all and len(lists) != count:
            refuse("exclude", f"{len(lists)} lists", f"there are {count} histories")
        for items in lists:
            if not isinstance(items, list) or not all(type(item) in (str, int) for item in items):
                refuse("exclude", repr(items)[:60], "it must be item ids, or a list of item ids for each history")
            if len(items) > MOST_EVENTS:
                refuse("exclude", f"{len(items)} items", f"at most {MOST_EVENTS} can be left out of one list")
        return lists * count if for_all else lists


class Sample(Histories):
    """n independent draws for each history; the same for the same seed and histories."""

    n: int = Field(10, ge=1, le=MOST_ITEMS)
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**62)


def refuse(field: str, value: object, reason: str) -> NoReturn:
    """Raise InputError for a value that a request cannot have."""
    raise InputError(f"{field}={value}: {reason}.", field=field, value=value)
