"""Bringing the logs of a run of `observe` here, or the labelled dataset that stands in for them."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import Field

from matchmaking.base.errors import InputError
from matchmaking.base.escape import visible
from matchmaking.base.files import file_md5
from matchmaking.base.records import Record
from matchmaking.base.redact import redact
from matchmaking.base.settings import OUTCOMES_URI, PREDICTIONS_URI
from matchmaking.base.stamps import check_stamp
from matchmaking.data.parquet_rows import is_parquet
from matchmaking.data.parts import fetch_dataset, parts_of
from matchmaking.live.logs import NoLogError, fetch_log
from matchmaking.live.series import Series, looked_at

# what stands in the folder between the steps
PREDICTIONS, OUTCOMES, LABELLED, ASKED = "predictions", "outcomes", "pairs", "asked.json"
# of a labelled dataset the column with the time at which each pair was shown, where it has one
TIME_COLUMN = "time"


class Asked(Record):
    """What a run of `observe` is about, for its steps."""

    period: str
    source: str
    timestamp: str
    predictions: str = Field(default="", description="URIs; no credentials in them")
    outcomes: str = ""
    data: str = ""
    production: str = ""
    promoted: list[str] | None = Field(default=None, description="sha256 of models; None where nobody knows")

    @property
    def series(self) -> Series:
        """Which series the run goes on with."""
        found = looked_at(self.period, self.predictions, self.outcomes, self.data, self.production)
        return Series.of({name: text for name, text in found.items() if text})


def fetch_logs(predictions: str, outcomes: str, data: str, folder: Path) -> str:
    """Copies the logs, or the labelled dataset, into a folder.

    Args:
        predictions: URI of the prediction log, a file or a folder; empty where `data` is given.
        outcomes: URI of the outcome log; empty where there is none yet.
        data: URI of a labelled dataset, in place of both.
        folder: becomes the folder.

    Returns:
        The version of the dataset (see `data.parts`); of logs, of their parts' names and md5s.

    Raises:
        InputError: neither or both are given, or there is no such file; where logs go by default there may be none yet.
        StorageError: a store can't be reached, even after retries.
    """
    if bool(predictions) == bool(data):
        raise InputError("give either the logs (predictions, outcomes) or a labelled dataset (data)")
    if outcomes and not predictions:
        raise InputError("outcomes say nothing without the predictions: give both logs")
    folder.mkdir(parents=True, exist_ok=True)
    if data:
        return fetch_dataset(data, folder / LABELLED)
    for uri, name in ((predictions, PREDICTIONS), (outcomes, OUTCOMES)):
        if not uri:
            continue
        try:
            fetch_log(uri, folder / name)
        except NoLogError:
            # a schedule looks there before anybody has written a log
            if uri not in (PREDICTIONS_URI, OUTCOMES_URI):
                raise
            shutil.rmtree(folder / name, ignore_errors=True)
    digest = hashlib.md5(usedforsecurity=False)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {file_md5(path)}\n".encode())
    return digest.hexdigest()


def write_asked(
    folder: Path, period: str, timestamp: str, uris: Sequence[str], promoted: Sequence[str] | None
) -> Asked:
    """Writes beside the logs what the run is about.

    Args:
        folder: with the logs.
        period: of the windows.
        timestamp: the run's.
        uris: of predictions, outcomes, data and production.
        promoted: the models that have been production, oldest first; None where nobody knows.

    Raises:
        InputError: the run's time is one to come: pairs without an outcome by then aren't without one for good.
    """
    check_stamp(timestamp)
    predictions, outcomes, data, production = map(redact, uris)
    asked = Asked(
        period=period,
        source=predictions or data,
        timestamp=timestamp,
        predictions=predictions,
        outcomes=outcomes,
        data=data,
        production=production,
        promoted=None if promoted is None else list(promoted),
    )
    (folder / ASKED).write_text(asked.as_json())
    return asked


def read_times(path: Path) -> pd.Series | None:
    """A labelled dataset's `time` column, in the order of its rows: texts, or timestamps; None where it has none.

    Args:
        path: a dataset that `data.read.read_pairs` takes.

    Raises:
        InputError: it can't be read, or some of the parts have it and others don't.
    """
    files = [path / name for name in parts_of(path)] if path.is_dir() else [path]
    found = [_times_in_parquet(file) if is_parquet(file) else _times_in_csv(file) for file in files]
    times = [one for one in found if one is not None]
    if times and len(times) < len(files):
        without = next(file.name for file, one in zip(files, found, strict=True) if one is None)
        raise InputError(f"{visible(without)} has no column '{TIME_COLUMN}', as other parts have")
    return pd.concat(times, ignore_index=True) if times else None


def _times_in_parquet(path: Path) -> pd.Series | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            spelt = [name for name in file.schema_arrow.names if name.strip() == TIME_COLUMN]
            if not spelt:
                return None
            return file.read(columns=spelt[:1]).column(spelt[0]).to_pandas().rename(TIME_COLUMN)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise InputError(f"the column '{TIME_COLUMN}' can't be read: {str(error).partition(chr(10))[0]}") from error


def _times_in_csv(path: Path) -> pd.Series | None:
    with path.open("rb") as opened:
        compression = "gzip" if opened.read(2) == b"\x1f\x8b" else None
    options = {"encoding": "utf-8-sig", "dtype": str, "skipinitialspace": True, "compression": compression}
    # where each row ends in a comma more than the header, pandas would take the first column for an index, and each
    # name for the column after its own
    options |= {"index_col": False}
    header = pd.read_csv(path, nrows=0, **options)  # type: ignore[call-overload]
    found = [name for name in header.columns if str(name).strip() == TIME_COLUMN]
    if not found:
        return None
    try:
        with warnings.catch_warnings():
            # what stands beyond the header's columns is nothing, or `read_pairs` has refused it
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            return pd.read_csv(path, usecols=found, **options)[found[0]].str.strip()  # type: ignore[call-overload]
    except ValueError as error:
        raise InputError(f"the column '{TIME_COLUMN}' can't be read: {error}") from error
