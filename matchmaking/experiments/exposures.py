"""The exposure log: who was asked about, when, under which model, and how that went. Read, and shipped in whole parts.

JSON Lines, a file a minute of each gateway (`exposures-2026-03-01T1207.jsonl`, UTC), which nginx writes unbuffered. In
the object store, where `ship` has put them compressed, they lie in a folder a day.

=============  =====================================================================================================
column         what it is
=============  =====================================================================================================
`version`      1
`time`         when the answer was complete: ISO 8601 with an offset, milliseconds; in shadow mode of both lines when
               the later of the two answers was
`experiment`   its name
`mode`         "ab", or "shadow", in which a request has two lines, one of each variant
`unit`         the client's id; in shadow mode it may be empty
`variant`      the client's arm: "champion" or "challenger"
`model`        sha256 of the arm's .h5
`request`      the gateway's own number of the request, 32 hexadecimal digits; the service gets it as X-Request-Id
`status`       of the arm's answer, as text: 502 it couldn't be reached, 504 it was too slow, 499 the caller left
`latency_ms`   of what the caller waited for; in shadow mode each line has its own service's
`answered_by`  who answered the caller: the champion also where the challenger failed
`service`      the version of the service that answered, where the gateway was told it, or which of the answer's headers
               has it; optional
=============  =====================================================================================================
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.experiments.assignment import UNIT
from matchmaking.live.parts import Finding, finding, utc

VERSION = 1
COLUMNS = ("time", "unit", "variant", "model", "request", "status", "latency_ms", "answered_by", "mode", "experiment")
# may be missing, or empty
OPTIONAL = "service"
REPEATED = frozenset({"unit", "variant", "model", "status", "answered_by", "mode", "experiment", OPTIONAL})
ENDINGS = (".jsonl", ".jsonl.gz")
# a line is written when its request ends: after this a minute's part gets no more
GRACE = timedelta(seconds=5)


@dataclass(frozen=True)
class Exposures:
    """A log that was read.

    Attributes:
        frame: a row a line, in order of time: `COLUMNS`, and `service` where any line has it; `time` is datetime64[ns,
            UTC], `status` int64, `latency_ms` float64, `service` None where it isn't known.
        findings: `half-written-part` (what comes before the break is read), `unreadable-part`, `invalid-record`,
            `other-version` and `duplicate-line` (set aside).
    """

    frame: pd.DataFrame
    findings: list[Finding]


def read_exposures(path: Path, experiment: str | None = None) -> Exposures:
    """Reads an exposure log: a file, or a folder of parts and its folders.

    Args:
        path: the file or folder; a remote log is brought here by `live.logs.fetch_log`.
        experiment: only its lines; all, if left out.

    Raises:
        InputError: there is no such log.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(ENDINGS) and file.is_file())
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"{path} doesn't exist; give an exposure log's file, or its folder of parts")
    columns: dict[str, list[Any]] = {column: [] for column in (*COLUMNS, OPTIONAL)}
    odd: dict[str, list[str]] = {"half-written-part": [], "unreadable-part": [], "invalid-record": []}
    odd["other-version"] = []
    for file in files:
        name = file.name if path.is_file() else str(file.relative_to(path))
        try:
            data = file.read_bytes()
            text = gzip.decompress(data) if file.suffix == ".gz" else data
        except (OSError, EOFError, zlib.error) as error:
            odd["unreadable-part"].append(f"{name}: {error}")
            continue
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            try:
                record = json.loads(line)
            # the latter of what is nested too deeply
            except (ValueError, RecursionError):
                record = None
            if not line.endswith(b"\n") and record is None:
                odd["half-written-part"].append(f"{name}: breaks off in line {number}")
            elif not isinstance(record, dict):
                odd["invalid-record"].append(f"{name}: line {number} is no JSON object")
            elif record.get("version") != VERSION:
                odd["other-version"].append(f"{name}: line {number}")
            elif wrong := _wrong(record):
                odd["invalid-record"].append(f"{name}: line {number}, {wrong}")
            elif experiment in (None, record["experiment"]):
                for column, values in columns.items():
                    value = record.get(column) or None if column == OPTIONAL else record[column]
                    # what is there many times is kept once
                    values.append(sys.intern(value) if column in REPEATED and value is not None else value)
    if not any(columns[OPTIONAL]):
        del columns[OPTIONAL]
    frame = _typed(columns)
    invalid = frame["time"].isna()
    odd["invalid-record"] += ["time"] * int(invalid.sum())
    frame = frame[~invalid]
    twice = frame.duplicated(["request", "variant"], keep="first")
    findings = [one for code, examples in odd.items() for one in finding(code, examples)]
    findings += finding("duplicate-line", list(frame.loc[twice, "request"]))
    return Exposures(frame[~twice].sort_values(["time", "request"], ignore_index=True), findings)


def no_exposures() -> Exposures:
    """A log without a line."""
    return Exposures(_typed({column: [] for column in COLUMNS}), [])


def keep_lines(path: Path, experiment: str) -> None:
    """Takes the lines of other experiments out of a copy of a log; what can't be read stays, and is told by who reads.

    Args:
        path: the file, or the folder of parts; a part that has no other lines goes.
        experiment: whose lines stay.
    """
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    for file in files:
        try:
            data = file.read_bytes()
            text = gzip.decompress(data) if file.suffix == ".gz" else data
        except (OSError, EOFError, zlib.error):
            continue
        lines = text.splitlines(keepends=True)
        mine = [line for line in lines if not _others(line, experiment)]
        if len(mine) == len(lines):
            continue
        if not mine:
            file.unlink()
            continue
        kept = b"".join(mine)
        file.write_bytes(gzip.compress(kept, mtime=0) if file.suffix == ".gz" else kept)


def _others(line: bytes, experiment: str) -> bool:
    """Whether a line is a whole one of another experiment."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    known = isinstance(record, dict) and record.get("version") == VERSION
    return known and isinstance(record.get("experiment"), str) and record["experiment"] != experiment


def ship(folder: Path, uri: str, *, everything: bool = False, now: datetime | None = None) -> int:
    """Puts the parts whose minute is over into a store, each whole and compressed, and removes them here.

    A part's name there ends in the digest of its lines, so one that was put there before the program that did it was
    killed is the same object again, and nothing that is there is ever changed.

    Args:
        folder: where nginx writes.
        uri: a folder; a part goes to `<day>/<minute>-<digest>.jsonl.gz` in it.
        everything: the minute that isn't over as well, once nginx has ended.
        now: UTC.

    Returns:
        How many parts went.

    Raises:
        InputError, StorageError: the store can't be written; what hadn't gone by then is still here.
    """
    now = now or datetime.now(UTC)
    parts = sorted(folder.glob("exposures-*.jsonl"))
    gone = 0
    for part in parts:
        minute = part.stem.removeprefix("exposures-")
        with suppress(ValueError):
            begun = datetime.strptime(minute, "%Y-%m-%dT%H%M").replace(tzinfo=UTC)
            if not everything and now < begun + timedelta(minutes=1) + GRACE:
                continue
        data = part.read_bytes()
        digest = hashlib.sha256(data).hexdigest()[:16]
        target = f"{uri.rstrip('/')}/{minute[:10]}/{minute[11:]}-{digest}.jsonl.gz"
        with suppress(storage.ConflictError):  # the same bytes
            storage.replace_bytes(target, gzip.compress(data, mtime=0), None)
        part.unlink()
        gone += 1
    return gone


def _wrong(record: dict[str, Any]) -> str:
    """Which column is no valid one; empty for none."""
    text = {"time", "unit", "variant", "model", "request", "status", "answered_by", "mode", "experiment"}
    for column in COLUMNS:
        if column not in record or isinstance(record[column], str) != (column in text):
            return column
    if not isinstance(record.get(OPTIONAL), str | None):
        return OPTIONAL
    if record["unit"] and not UNIT.fullmatch(record["unit"]):
        return "unit"
    if record["variant"] not in ("champion", "challenger"):
        return "variant"
    if not record["status"].isdigit():
        return "status"
    return "" if isinstance(record["latency_ms"], int | float) else "latency_ms"


def _typed(columns: dict[str, list[Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(columns, dtype=object)
    return frame.assign(
        time=utc(frame["time"])[0] if len(frame) else pd.Series([], dtype="datetime64[ns, UTC]"),
        status=frame["status"].astype("int64"),
        latency_ms=frame["latency_ms"].astype(float),
    )
