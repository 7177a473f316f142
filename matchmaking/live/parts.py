"""The parts of a log: Parquet and JSON Lines files, read one by one, so that a broken one costs nothing but itself.

A record is a Parquet row or a JSON object a line. Each carries `version`, the format's, so that a log can be appended
to, split and merged by anything. Further columns are ignored.

=============  ==================================  ===========================================================
column         of                                  what it is
=============  ==================================  ===========================================================
`version`      both                                1
`pair_id`      both                                text, not empty: one id for each time a pair was scored
`time`         both                                ISO 8601 with an offset, or a Parquet timestamp; without a
                                                   zone it is taken for UTC, and that is told
`model`        predictions                         sha256 of the .h5 that scored the pair, in hex
13 features    predictions                         as in `schema.FEATURES`
`probability`  predictions                         in [0, 1]
`match`        outcomes                            0 or 1
=============  ==================================  ===========================================================
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError, cannot_write
from matchmaking.base.escape import visible
from matchmaking.data.schema import CATEGORICAL, FEATURES, INTEGERS, NUMERIC, TARGET

Kind = Literal["prediction", "outcome"]
VERSION = 1
COLUMNS: dict[Kind, tuple[str, ...]] = {
    "prediction": ("pair_id", "time", "model", *FEATURES, "probability"),
    "outcome": ("pair_id", "time", TARGET),
}
PARQUET, LINES = (".parquet",), (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """Something that was noticed in a log.

    Attributes:
        code: what, as a word that stays the same: `half-written-part`, say.
        count: how many records, or parts.
        examples: at most `EXAMPLES` of them.
    """

    code: str
    count: int
    examples: tuple[str, ...]


def finding(code: str, examples: Sequence[Any], count: int | None = None) -> list[Finding]:
    """One finding, or none where there is nothing."""
    total = len(examples) if count is None else count
    return [Finding(code, total, tuple(visible(str(one)) for one in examples[:EXAMPLES]))] if total else []


def read_parts(path: Path, kind: Kind) -> tuple[pd.DataFrame, list[Finding], int]:
    """Reads a log of one file, or of a folder of parts and its folders.

    Args:
        path: the file or folder.
        kind: which log it is.

    Returns:
        The valid records, typed: `pair_id`, `time` (datetime64[ns, UTC]), and the rest of `COLUMNS[kind]`; `part` says
        where each was. The findings: `half-written-part` (what comes before the break is read), `unreadable-part`,
        `other-file`, `other-version` and `invalid-record` (set aside), `time-zones`, `time-without-zone`. And how many
        records there were.

    Raises:
        InputError: there is no such log, no part of it can be read, or no record has a format version that is ours.
    """
    files, others = _files(path)
    frames: list[pd.DataFrame] = []
    broken: dict[str, list[str]] = {"half-written-part": [], "unreadable-part": []}
    lines: list[str] = []
    versions: list[tuple[str, int]] = []
    for file in files:
        name = file.name if path.is_file() else str(file.relative_to(path))
        try:
            if file.suffix in PARQUET:
                frame, cut = _read_parquet(file), ""
            else:
                frame, cut, bad = _read_lines(file)
                lines += [f"{name}: {one}" for one in bad]
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among them
            broken["unreadable-part"].append(f"{name}: {str(error).splitlines()[0] if str(error) else 'unreadable'}")
            continue
        if cut:
            broken["half-written-part"].append(f"{name}: {cut}")
        other, said = _other_versions(frame)
        if other.any():
            versions.append((f"{name}: {int(other.sum()):,} records have the format version {said}", int(other.sum())))
            frame = frame[~other]
        frames.append(frame.reindex(columns=list(COLUMNS[kind])).assign(part=name))
    if not frames:
        said = "; ".join(broken["unreadable-part"][:EXAMPLES]) or f"there is none of {', '.join(PARQUET + LINES)}"
        raise InputError(f"{path}: no part of the {kind} log can be read: {said}")
    foreign = sum(number for _, number in versions)
    if foreign and not any(map(len, frames)):
        raise InputError(
            f"{versions[0][0]}, this program reads {VERSION}, and no other record is there; "
            "update the program if the log is newer, else write the records with that version"
        )
    typed, wrong, zones = _typed(frames, kind)
    count = sum(map(len, frames)) + len(lines) + foreign
    findings = [one for code, examples in broken.items() for one in finding(code, examples)]
    findings += finding("other-file", others) + finding("other-version", [said for said, _ in versions], foreign)
    findings += finding("invalid-record", lines + wrong)
    return typed, findings + _zones(zones), count


def write_part(frame: pd.DataFrame, path: Path, kind: Kind) -> None:
    """Writes records as one part, Parquet or JSON Lines by the name's ending, whole or not at all.

    Raises:
        InputError: a column is missing, or the file can't be written there.
    """
    if missing := [name for name in COLUMNS[kind] if name not in frame]:
        raise InputError(f"{path}: a {kind} log needs the column {', '.join(missing)}")
    records = frame[list(COLUMNS[kind])].assign(version=VERSION)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in PARQUET:
            records.to_parquet(temporary, index=False)
        elif path.name.endswith(LINES):
            times = pd.to_datetime(records["time"], utc=True).dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            # not to_json: its 15 digits aren't all that a float has, and a pair is to be the same in both formats
            plain = records.assign(time=times).to_dict(orient="records")
            data = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in plain).encode()
            temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        else:
            raise InputError(f"{path}: a log's name ends in one of {', '.join(PARQUET + LINES)}")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error


def _files(path: Path) -> tuple[list[Path], list[str]]:
    """The parts in order of their names, and the names of what isn't one; hidden files are somebody's unfinished."""
    if path.is_file():
        if not path.name.endswith(PARQUET + LINES):
            raise InputError(f"{path}: a log's name ends in one of {', '.join(PARQUET + LINES)}")
        return [path], []
    if not path.is_dir():
        raise InputError(f"{path} doesn't exist; give a log's file, or its folder of parts")
    inside = [(file, file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file()]
    shown = [(file, name) for file, name in inside if not any(part.startswith((".", "_")) for part in name.parts)]
    parts = [file for file, _ in shown if file.name.endswith(PARQUET + LINES)]
    return parts, [str(name) for file, name in shown if not file.name.endswith(PARQUET + LINES)]


def _read_parquet(file: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    # read as a file, not as a dataset: a folder's name is no column
    return pq.ParquetFile(file).read().to_pandas()


def _read_lines(file: Path) -> tuple[pd.DataFrame, str, list[str]]:
    """The records, where the part breaks off (empty where it doesn't), and the lines that are none."""
    records, bad, cut, number, last = [], [], "", 0, b"\n"
    try:
        for number, last in enumerate(_lines(file), start=1):
            if not last.strip():
                continue
            try:
                record = json.loads(last)
            # the latter of what is nested too deeply
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                records.append(record)
            elif last.endswith(b"\n"):
                bad.append(f"line {number} is no JSON object")
            else:
                cut = f"breaks off in line {number}"
    except (EOFError, zlib.error) as error:
        cut = f"breaks off after line {number} ({error})"
    if not number and not cut:
        cut = "is empty"
    return pd.DataFrame(records, dtype=object), cut, bad


def _lines(file: Path) -> Iterator[bytes]:
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
        yield from opened


def _other_versions(frame: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Which records have a format version that isn't ours, shape (rows,), and what the first of them has instead."""
    found = frame["version"] if "version" in frame else pd.Series([None] * len(frame), dtype=object)
    wrong = ~pd.to_numeric(found, errors="coerce").eq(VERSION).to_numpy(dtype=bool)
    if not wrong.any():
        return wrong, ""
    other = found[wrong].iloc[0]
    return wrong, "none" if other is None or other != other else f"'{visible(str(other))}'"


def _typed(frames: list[pd.DataFrame], kind: Kind) -> tuple[pd.DataFrame, list[str], pd.Series]:
    """The valid records, what is wrong with the others, and the time zone each time was written in."""
    times = [utc(frame["time"]) for frame in frames]
    bare = [one.drop(columns="time").assign(row=np.arange(1, len(one) + 1)) for one in frames]
    frame = pd.concat(bare).assign(time=pd.concat([time for time, _ in times])).reset_index(drop=True)
    zones = pd.concat([zone for _, zone in times]).reset_index(drop=True)
    wrong = pd.Series("", index=frame.index)

    def check(column: str, good: pd.Series) -> None:
        wrong.loc[~good & (wrong == "")] = column

    check("time", frame["time"].notna())
    # a number is no id: with one missing, pandas would make 7.0 of 7
    for name in ("pair_id", *(CATEGORICAL if kind == "prediction" else ())):
        check(name, frame[name].map(lambda value: isinstance(value, str) and value.strip() != "").astype(bool))
    numbers = {**NUMERIC, "probability": (0, 1)} if kind == "prediction" else {TARGET: (0, 1)}
    for name, (low, high) in numbers.items():
        values = pd.to_numeric(frame[name], errors="coerce").astype(float)
        good = values.between(low, high)
        if name in INTEGERS:
            good &= values == np.floor(values)
        frame[name] = values
        check(name, good)
    if kind == "prediction":
        frame["model"] = frame["model"].astype(str).str.lower()
        check("model", frame["model"].str.fullmatch("[0-9a-f]{64}"))
    bad = frame[wrong != ""]
    said = [
        f"{part}: record {row}, {what}" for part, row, what in zip(bad.part, bad.row, wrong[bad.index], strict=True)
    ]
    kept = frame.loc[wrong == "", [*COLUMNS[kind], "part"]].astype({"pair_id": object})
    whole = {name: "int64" for name in kept if name in INTEGERS}
    return kept.astype(whole).reset_index(drop=True), said, zones[kept.index]


def utc(written: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Times in UTC (NaT where they are none), and the zone each was written in: empty for none."""
    if isinstance(written.dtype, pd.DatetimeTZDtype):
        return written.dt.tz_convert("UTC").dt.as_unit("ns"), pd.Series(str(written.dt.tz), index=written.index)
    if pd.api.types.is_datetime64_dtype(written):
        return written.dt.tz_localize("UTC").dt.as_unit("ns"), pd.Series("", index=written.index)
    # a number could be seconds or milliseconds: only text says what it is
    text = written.where(written.map(lambda value: isinstance(value, str)), None).astype("string")
    # an offset comes after a time of day: the days of a date aren't one
    found = text.str.extract(r"[T ]\d{2}.*?(Z|[+-]\d{2}:?\d{2}|[+-]\d{2})$", expand=False)
    # apart, since pandas takes a time without an offset, after one with, for a time with the same
    plain = pd.to_datetime(text.where(found.isna()), utc=True, format="ISO8601", errors="coerce")
    zoned = pd.to_datetime(text.where(found.notna()), utc=True, format="ISO8601", errors="coerce")
    zone = found.fillna("").replace({"Z": "UTC"}).str.replace(r"^[+-]00:?(00)?$", "UTC", regex=True)
    return zoned.fillna(plain).dt.as_unit("ns"), zone.astype(object)


def _zones(zones: pd.Series) -> list[Finding]:
    counts = zones.value_counts()
    other = [f"{zone}: {count:,} records" for zone, count in counts.items() if zone]
    if not any(zone not in ("", "UTC") for zone in counts.index):
        other = []
    plain = int(counts.get("", 0))
    return finding("time-zones", other, len(other)) + finding("time-without-zone", [f"{plain:,} records"], plain)
