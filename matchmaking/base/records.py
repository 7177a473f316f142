"""What is kept as JSON: how a record is written, and read back whole or refused in one line.

Each record says in `format` how it was written (none: 1). A newer format is refused in one line; fields that are not
known here, which a newer version of the same format may add, are kept as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from matchmaking.base.errors import RefusedError

FORMAT = 1
SHORT = 12

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# by name of the production file
Files = dict[Annotated[str, Field(pattern=r"^(encoder\.pkl|scaler\.pkl|lawyer_match_model\.h5)$")], Sha256]


class RecordError(RefusedError):
    """A record can't be read: it is damaged, or no such record."""


class NewerError(RecordError):
    """A record was written by a version that is newer than this one."""


class Record(BaseModel):
    """What all records have in common; `extra` is allowed for what a newer version adds."""

    model_config = ConfigDict(frozen=True, extra="allow", validate_by_name=True, validate_by_alias=True)
    format: int = Field(
        default=FORMAT,
        ge=1,
        le=FORMAT,
        description="1; fields may be added without another number",
    )

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return self.model_dump(mode="json", by_alias=True)

    def as_json(self, indent: int | None = None) -> str:
        """The record as JSON; on one line without `indent`."""
        return self.model_dump_json(by_alias=True, indent=indent)


R = TypeVar("R", bound=Record)


def read_record(kind: type[R], text: str | bytes, source: str) -> R:
    """Reads a record.

    Args:
        kind: which.
        text: the JSON.
        source: what to call it in an error.

    Raises:
        NewerError: its format is newer than this version knows.
        RecordError: it isn't such a record.
    """
    try:
        found = from_json(text)
    except ValueError as error:
        raise RecordError(f"{source} is damaged: {error}") from None
    written = found.get("format", FORMAT) if isinstance(found, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise NewerError(
            f"{source} was written by a newer version of mlops (format {written}; this one reads up to {FORMAT}): "
            "update this one"
        )
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordError(f"{source} isn't readable: {f'{where}: ' if where else ''}{first['msg']}") from None
