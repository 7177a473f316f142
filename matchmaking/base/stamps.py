"""Times as runs and packages are named by them: UTC, 20260131T235959Z."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from matchmaking.base.errors import InputError

# machines' clocks differ by less
SKEW = timedelta(minutes=5)


def read_stamp(stamp: str) -> datetime:
    """The time, in UTC.

    Raises:
        InputError: it is none.
    """
    try:
        return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise InputError(f"timestamp {stamp}: give a time such as 20260131T235959Z (UTC)") from None


def check_stamp(stamp: str) -> None:
    """Refuses a time of looking that is to come: what hasn't come by now would be taken for what never comes.

    Raises:
        InputError: it is one, or none at all.
    """
    if read_stamp(stamp) > datetime.now(UTC) + SKEW:
        raise InputError(f"timestamp {stamp} is still to come; nothing can be said as of then")
