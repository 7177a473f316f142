"""What is wrong with rows of a dataset: collected while they pass by, and told in one line when all were looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.data.schema import CATEGORICAL, TARGET, keeps_limits, pair_schema

SHOWN_ROWS = 5

# of rows, by their numbers in the dataset from 0, in order: what to call each, as "line 7"
Places = Callable[[list[int]], list[str]]


@dataclass
class _Rows:
    """Some rows that are wrong in the same way: how many, and of the first ones the numbers and what stands there."""

    count: int = 0
    numbers: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, numbers: list[int], values: list[Any], count: int) -> None:
        room = SHOWN_ROWS - len(self.numbers)
        self.count += count
        self.numbers += numbers[:room]
        self.values += values[:room]


@dataclass
class Problems:
    """Rows that can't be read, by column and by what is wrong."""

    found: dict[tuple[str, str], _Rows] = field(default_factory=dict)

    def add(self, column: str, what: str, mask: pd.Series, values: pd.Series | None = None) -> None:
        """Takes the rows where `mask` is true, by its index, with what stands there (None: nothing)."""
        if mask.any():
            rows = mask.index[mask][:SHOWN_ROWS].tolist()
            shown = [None] * len(rows) if values is None else values.loc[rows].tolist()
            self.found.setdefault((column, what), _Rows()).add(rows, shown, int(mask.sum()))

    def tell(self, source: str, places: Places, columns: list[str]) -> None:
        """Raises an InputError for what is wrong first in the dataset, if anything is."""
        if self.found:
            column, what = min(self.found, key=lambda key: (self.found[key].numbers[0], columns.index(key[0])))
            raise _bad_rows(source, places, column, what, self.found[column, what])


@dataclass
class Wrong:
    """Rows that break the schema, by the schema's order of columns and of their checks."""

    found: dict[tuple[int, int], tuple[str, str, _Rows]] = field(default_factory=dict)
    # by columns; making one takes as long as checking 100,000 rows
    schemas: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def look(self, part: pd.DataFrame) -> None:
        """Checks the numbers of some rows; of categories, `cells.category` has refused what the schema would."""
        numbers = [str(column) for column in part if column not in CATEGORICAL]
        if keeps_limits(part[numbers]):
            return
        # not imported where nothing is wrong, which takes as long as checking a million rows
        import pandera.errors

        schema = self.schemas.get(tuple(numbers))
        if schema is None:
            schema = self.schemas[tuple(numbers)] = pair_schema(TARGET in part).select_columns(numbers)
        try:
            schema.validate(part[numbers], lazy=True)
        except pandera.errors.SchemaErrors as errors:
            order = list(schema.columns)
            for (column, number, check), same in errors.failure_cases.groupby(["column", "check_number", "check"]):
                rows = sorted(same["index"].astype(int))
                key = (order.index(column), int(number))
                _, _, kept = self.found.setdefault(key, (str(column), str(check), _Rows()))
                kept.add(rows[:SHOWN_ROWS], part.loc[rows[:SHOWN_ROWS], str(column)].tolist(), len(rows))

    def tell(self, source: str, places: Places) -> None:
        """Raises an InputError for the first column that breaks the schema, if one does."""
        if self.found:
            raise _bad_rows(source, places, *self.found[min(self.found)])


def as_json(found: Problems, wrong: Wrong, places: Places) -> dict[str, Any]:
    """What is wrong with the rows of one part, each with what to call it, for `tell_together`."""

    def rows(each: _Rows) -> dict[str, Any]:
        return {**vars(each), "places": places(each.numbers)}

    return {
        "unread": [[*key, rows(each)] for key, each in found.found.items()],
        "wrong": [[*key, column, check, rows(each)] for key, (column, check, each) in wrong.found.items()],
    }


def tell_together(source: str, parts: Iterable[Mapping[str, Any]], columns: list[str]) -> None:
    """Raises the InputError that the parts of a dataset have, read one after the other, if they have one.

    Args:
        source: what to call the dataset.
        parts: in order, of each how many `rows` it has and as `problems` what `as_json` gives.
        columns: as for `Problems.tell`.
    """
    found, wrong = Problems(), Wrong()
    called: dict[int, str] = {}
    first = 0

    def add(to: _Rows, rows: Mapping[str, Any]) -> None:
        numbers = [first + number for number in rows["numbers"]]
        called.update(zip(numbers, rows["places"], strict=True))
        to.add(numbers, rows["values"], rows["count"])

    for part in parts:
        for column, what, rows in part["problems"]["unread"]:
            add(found.found.setdefault((column, what), _Rows()), rows)
        for place, number, column, check, rows in part["problems"]["wrong"]:
            add(wrong.found.setdefault((place, number), (column, check, _Rows()))[2], rows)
        first += part["rows"]

    def places(numbers: list[int]) -> list[str]:
        return [called[number] for number in numbers]

    found.tell(source, places, columns)
    wrong.tell(source, places)


def listed(names: list[str]) -> str:
    """Names of columns, as messages show them."""
    return ", ".join(f"'{visible(name)}'" for name in names)


def _bad_rows(source: str, places: Places, column: str, what: str, rows: _Rows) -> InputError:
    """An error that names the first of some rows, and beside each what stands there (None: nothing)."""
    found = ["" if value is None else f" ({value!r})" for value in rows.values]
    called = places(rows.numbers)
    shown = ", ".join(f"{place}{value}" for place, value in zip(called, found, strict=True))
    more = f" and {rows.count - SHOWN_ROWS} more" if rows.count > SHOWN_ROWS else ""
    return InputError(f"{source}: column '{column}': {what} in {shown}{more}")
