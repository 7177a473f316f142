"""Bringing an experiment's logs here, and reading them: what the command line and the pipeline have in common.

The outcomes and what is known of the requests are tables, each a file or a folder of parts: Parquet, CSV or JSON Lines.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from pydantic import Field

from matchmaking.base.errors import InputError
from matchmaking.base.files import file_md5
from matchmaking.base.records import Record
from matchmaking.base.redact import redact
from matchmaking.base.settings import EXPERIMENT_OUTCOMES_URI, EXPERIMENT_PAIRS_URI
from matchmaking.experiments.analysis import Analysis, analyse
from matchmaking.experiments.assignment import assign
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.exposures import read_exposures
from matchmaking.experiments.record import recorded, under_way
from matchmaking.live.logs import fetch_log
from matchmaking.live.parts import LINES, PARQUET, Finding

ENDINGS = (*PARQUET, ".csv", ".csv.gz", *LINES)
# where nothing needs to be yet
EXPECTED = (EXPERIMENT_OUTCOMES_URI, EXPERIMENT_PAIRS_URI)
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
        InputError: there is no such experiment, or no such log.
        RefusedError: its definition isn't the one that was recorded.
        StorageError, TrackingError: a server can't be reached.
    """
    now = moment(until or pd.Timestamp(stamp).isoformat(), "until")
    found = recorded(name) if name else under_way(now)
    version = fetch(sources if found else Sources(""), folder)
    definition = found[1] if found else None
    asked = Asked(name=definition.name if definition else "", now=now.isoformat(), definition=definition)
    (folder / ASKED).write_text(asked.as_json(), encoding="utf-8")
    return asked, version


def fetch(sources: Sources, folder: Path) -> str:
    """Copies the logs into a folder.

    Returns:
        The md5 of their parts' names and md5s.

    Raises:
        InputError: there is no such log; where outcomes and pairs go by default there may be none yet.
        StorageError: a store can't be reached, even after retries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, uri in asdict(sources).items():
        # what an attempt before this one has left
        shutil.rmtree(folder / name, ignore_errors=True)
        if not uri:
            continue
        try:
            fetch_log(uri, folder / name)
        except InputError as error:
            if uri not in EXPECTED:
                raise InputError(f"{name}: {error}") from error
            shutil.rmtree(folder / name, ignore_errors=True)
    digest = hashlib.md5(usedforsecurity=False)
    for path in sorted(path for name in asdict(sources) for path in (folder / name).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {file_md5(path)}\n".encode())
    return digest.hexdigest()


def read(folder: Path, definition: Definition, now: pd.Timestamp) -> tuple[Analysis, list[Finding]]:
    """What an experiment says, from the logs that `fetch` brought.

    Args:
        folder: with them.
        definition: the experiment.
        now: UTC; see `analysis.analyse`.

    Returns:
        The analysis, and what was odd in the exposure log.

    Raises:
        InputError: a table can't be read, a column is missing, or the experiment hasn't begun.
    """
    log = read_exposures(_alone(folder / "exposures"), definition.name)
    outcomes = read_table(folder / "outcomes", "outcomes") if (folder / "outcomes").exists() else _no_outcomes()
    pairs = read_table(folder / "pairs", "pairs") if (folder / "pairs").exists() else None
    found = analyse(
        definition,
        log.frame,
        outcomes,
        now,
        pairs,
        # who is in an arm at some share is in the same one at 50 %
        lambda unit: assign(definition.salt, unit, 50.0),
    )
    return found, log.findings


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
            return pq.ParquetFile(file).read().to_pandas()
        if file.name.endswith(LINES):
            opened = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            return pd.DataFrame([json.loads(line) for line in opened.splitlines() if line.strip()])
        return pd.read_csv(file, dtype={name: "string" for name in TEXTS})
    except (OSError, ValueError, EOFError, zlib.error, TypeError) as error:  # pyarrow's errors are among them
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{what} {redact(file.name)}: can't be read: {said}") from None


def _typed(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    for column in TEXTS:
        if column in frame:
            frame[column] = frame[column].astype("string").astype(object)
    try:
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
