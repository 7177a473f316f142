"""Bringing an experiment's logs here, and reading them: what the command line and the pipeline have in common.

The outcomes and what is known of the requests are tables, each a file or a folder of parts: Parquet, CSV or JSON Lines.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from matchmaking.base.errors import InputError
from matchmaking.base.files import file_md5
from matchmaking.base.records import Record
from matchmaking.base.redact import redact
from matchmaking.base.settings import EXPERIMENT_OUTCOMES_URI, EXPERIMENT_PAIRS_URI, EXPOSURES_URI
from matchmaking.base.stamps import check_stamp, read_stamp
from matchmaking.experiments.analysis import Analysis, analyse
from matchmaking.experiments.assignment import MOST_SHARE, assign, joins_at
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.exposures import keep_lines, no_exposures, read_exposures
from matchmaking.experiments.record import recorded, under_way
from matchmaking.experiments.units import DAY
from matchmaking.live.logs import NoLogError, fetch_log
from matchmaking.live.parts import LINES, PARQUET, Finding

ENDINGS = (*PARQUET, ".csv", ".csv.gz", *LINES)
# where nothing needs to be yet
EXPECTED = (EXPOSURES_URI, EXPERIMENT_OUTCOMES_URI, EXPERIMENT_PAIRS_URI)
# as `exposures.ship` calls parts
_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})/")
# days before the start in which exposures are looked for that shouldn't be there; a part of the minute around midnight
# may lie in the day before or after
EARLIER, AROUND = 7, 1
ASKED = "asked.json"
# text, whatever it looks like: 007 isn't 7
TEXTS = ("unit", "request", "lawyer")
NUMBERS = ("score", "probability")


@dataclass(frozen=True)
class Sources:
    """Where an experiment's logs are: URIs.

    Attributes:
        exposures: the exposure log, a file or a folder of parts.
        outcomes: `unit`, `time`, `match`, and `request` where it is known; empty for none yet.
        pairs: what is known of the requests; empty for nothing.
    """

    exposures: str
    outcomes: str = ""
    pairs: str = ""


class Asked(Record):
    """What a run of the pipeline is about, for its steps."""

    name: str = Field(default="", description="the experiment's; empty where none is under way")
    now: str
    clock: str = Field(description="when the logs were looked at, UTC: what was later isn't in them")
    definition: Definition | None = None


def gather(name: str, sources: Sources, until: str, stamp: str, folder: Path) -> tuple[Asked, str]:
    """Brings an experiment's definition and its logs here, as the pipeline's first step does.

    Args:
        name: the experiment's; empty for the one that is under way.
        sources: where its logs are.
        until: as of when; empty for the run's own time.
        stamp: the run's, UTC.
        folder: becomes the folder: the logs, and `ASKED`.

    Returns:
        What was asked, and the md5 of the logs.

    Raises:
        InputError: there is no such experiment, or no such log, or the run's own time is one to come.
        RefusedError: its definition isn't the one that was recorded.
        StorageError, TrackingError: a server can't be reached.
    """
    check_stamp(stamp)
    # not the time of an attempt after this one's: a report is held against the stamp
    clock = min(pd.Timestamp(read_stamp(stamp)), pd.Timestamp.now("UTC"))
    now = moment(until or clock.isoformat(), "until")
    found = recorded(name) if name else under_way(now)
    definition = found[1] if found else None
    version = fetch(sources, folder, definition, now) if definition else fetch(Sources(""), folder)
    asked = Asked(
        name=definition.name if definition else "",
        now=now.isoformat(),
        clock=clock.isoformat(),
        definition=definition,
    )
    (folder / ASKED).write_text(asked.as_json(), encoding="utf-8")
    return asked, version


def fetch(sources: Sources, folder: Path, definition: Definition | None = None, now: pd.Timestamp | None = None) -> str:
    """Copies the logs into a folder.

    Args:
        sources: where they are.
        folder: becomes the folder.
        definition: of the exposure log only what this experiment reads: its lines, and of parts in folders of days
            those from a week before its start on; all, if left out.
        now: until when; for ever, if left out.

    Returns:
        The md5 of their parts' names and md5s.

    Raises:
        InputError: there is no such log; where logs go by default there may be none yet. One that may not be read is
            no log that isn't there.
        StorageError: a store can't be reached, even after retries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, uri in asdict(sources).items():
        # what an attempt before this one has left
        shutil.rmtree(folder / name, ignore_errors=True)
        if not uri:
            continue
        try:
            if name == "exposures" and definition is not None:
                keep_lines(fetch_log(uri, folder / name, _days(definition, now)), definition.name)
            else:
                fetch_log(uri, folder / name)
        except NoLogError as error:
            if uri not in EXPECTED:
                raise InputError(f"{name}: {error}") from error
            shutil.rmtree(folder / name, ignore_errors=True)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    digest = hashlib.md5(usedforsecurity=False)
    for path in sorted(path for name in asdict(sources) for path in (folder / name).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {file_md5(path)}\n".encode())
    return digest.hexdigest()


def _days(definition: Definition, now: pd.Timestamp | None) -> Callable[[str], bool]:
    """Whether a part may have lines of an experiment, by the day that its folder is called by; others may."""
    start = pd.Timestamp(definition.start).tz_convert("UTC")
    first = f"{start - pd.Timedelta(days=EARLIER + AROUND):%Y-%m-%d}"
    last = f"{now + pd.Timedelta(days=AROUND):%Y-%m-%d}" if now is not None else "9999-12-31"

    def wanted(name: str) -> bool:
        day = _DAY.match(name)
        return day is None or first <= day[1] <= last

    return wanted


def read(
    folder: Path, definition: Definition, now: pd.Timestamp, clock: pd.Timestamp
) -> tuple[Analysis, list[Finding]]:
    """What an experiment says, from the logs that `fetch` brought.

    Args:
        folder: with them.
        definition: the experiment.
        now: UTC; see `analysis.analyse`.
        clock: UTC; when the logs were brought. A look at a day that wasn't over by then is marked as such: outcomes
            that are to come count as none in it.

    Returns:
        The analysis, and what was odd in the exposure log.

    Raises:
        InputError: a table can't be read, a column is missing, or the experiment hasn't begun.
    """
    there = _alone(folder / "exposures")
    log = read_exposures(there, definition.name) if there.exists() else no_exposures()
    outcomes = read_table(folder / "outcomes", "outcomes") if (folder / "outcomes").exists() else _no_outcomes()
    pairs = read_table(folder / "pairs", "pairs") if (folder / "pairs").exists() else None
    found = analyse(
        definition,
        log.frame,
        outcomes,
        now,
        pairs,
        # who is in an arm at some share is in the same one at 50 %
        lambda unit: assign(definition.salt, unit, MOST_SHARE),
        lambda unit: joins_at(definition.salt, unit),
    )
    return replace(found, to_come=pd.Timestamp(definition.start) + found.looks * DAY > clock), log.findings


def moment(text: str, source: str = "--until") -> pd.Timestamp:
    """A time with an offset, in UTC; now for an empty text.

    Raises:
        InputError: it isn't one.
    """
    if not text:
        return pd.Timestamp.now("UTC")
    try:
        return pd.Timestamp(text).tz_convert("UTC")
    except (ValueError, TypeError):
        raise InputError(f"{source} {text}: no time with an offset, such as 2026-03-01T00:00:00Z") from None


def read_table(path: Path, what: str) -> pd.DataFrame:
    """Reads a table of one file, or of a folder of parts and its folders.

    Args:
        path: a file, of any name that says what it is (`ENDINGS`; else it is taken for CSV), or a folder of such.
        what: what it is called in messages.

    Returns:
        Its rows; `unit`, `request` and `lawyer` as text, `time` in UTC, `match`, `score` and `probability` as numbers.

    Raises:
        InputError: it can't be read, or a value isn't what its column holds.
    """
    path = _alone(path)
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if one.is_file() and one.name.endswith(ENDINGS))
        files = [one for one in found if not any(part[0] in "._" for part in one.relative_to(path).parts)]
        if not files:
            raise InputError(f"{what}: there is none of {', '.join(ENDINGS)}")
    else:
        files = [path]
    return pd.concat([_typed(_read_file(file, what), f"{what} {file.name}") for file in files], ignore_index=True)


def _alone(path: Path) -> Path:
    """The file of a folder that has nothing else in it, whatever its name: a log may be one file of any name."""
    inside = list(path.iterdir()) if path.is_dir() else []
    return inside[0] if len(inside) == 1 and inside[0].is_file() else path


def _read_file(file: Path, what: str) -> pd.DataFrame:
    try:
        if file.name.endswith(PARQUET):
            import pyarrow.parquet as pq

            # as a file, not as a dataset: a folder's name is no column
            table = pq.ParquetFile(file).read()
            frame = table.to_pandas()
            # pandas has no missing whole number: 7 would be 7.0
            return frame.assign(**{name: _plain(table.column(name)) for name in TEXTS if name in frame})
        if file.name.endswith(LINES):
            opened = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            records = [json.loads(line) for line in opened.splitlines() if line.strip()]
            frame = pd.DataFrame(records)
            plain = {name: [one.get(name) for one in records] for name in TEXTS if name in frame}
            return frame.assign(**{name: pd.Series(values, dtype=object) for name, values in plain.items()})
        return pd.read_csv(file, dtype={name: "string" for name in TEXTS})
    # pyarrow's errors are among them, and what JSON that is nested too deeply raises
    except (OSError, ValueError, EOFError, zlib.error, TypeError, AttributeError, RecursionError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{what} {redact(file.name)}: can't be read: {said}") from None


def _plain(column: Any) -> pd.Series:
    """A column of Parquet as Python's own values, None where one is missing."""
    return pd.Series(column.to_pylist(), dtype=object)


def _text(value: Any) -> str | None:
    """An id as text: a number's is that of the whole number it is.

    Raises:
        ValueError: it is none.
    """
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, float):
        # who wrote it had one missing, and made fractions of whole numbers; above this there are gaps between those
        if not value.is_integer() or abs(value) > 2**53:
            raise ValueError(f"{value} is no id; write ids as text")
        return str(int(value))
    return str(value)


def _typed(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    try:
        for column in (name for name in TEXTS if name in frame):
            frame[column] = frame[column].map(_text).astype("string").astype(object)
        if "time" in frame:
            frame["time"] = pd.to_datetime(frame["time"], utc=True, format="ISO8601")
        for column in (name for name in (*NUMBERS, "match") if name in frame):
            frame[column] = pd.to_numeric(frame[column])
    except (ValueError, TypeError) as error:
        raise InputError(f"{source}: {str(error).splitlines()[0]}") from None
    if "match" in frame and not frame["match"].dropna().isin((0, 1)).all():
        raise InputError(f"{source}: match is 0 or 1, or empty where it isn't known")
    return frame


def _no_outcomes() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "unit": pd.Series(dtype=object),
            "time": pd.Series(dtype="datetime64[ns, UTC]"),
            "match": pd.Series(dtype=float),
        }
    )
