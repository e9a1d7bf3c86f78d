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

Item = str | int  # the number 7 is the id "7"
Items = Annotated[list[Item], Field(max_length=MOST_EVENTS)]
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
    exclude: Items | list[Items] | None = None
    beam_width: int | None = Field(None, ge=1, le=MOST_ITEMS)
    diversity: float = Field(0.0, ge=0, allow_inf_nan=False)

    def excluded(self) -> list[list[Item]]:
        """What each history's list leaves out. Raises InputError for another number of lists than of histories."""
        count = len(self.lists)
        exclude: Any = self.exclude or []
        if not exclude or not isinstance(exclude[0], list):
            return [exclude] * count
        if len(exclude) != count:
            refuse("exclude", len(exclude), f"there are {count} histories")
        return exclude


class Sample(Histories):
    """n independent draws for each history; the same for the same seed and histories."""

    n: int = Field(10, ge=1, le=MOST_ITEMS)
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**62)


def refuse(field: str, value: object, reason: str) -> NoReturn:
    """Raise InputError for a value that a request cannot have."""
    raise InputError(f"{field}: {value} cannot be, {reason}.", field=field, value=value)
