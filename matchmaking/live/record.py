"""The record of `observe`: a row for each window, slice and metric, and what was known beside it, kept in MLflow.

Each run holds the *whole* series: MLflow's points can be added to but not replaced, and runs can. So the newest
finished run is the truth by itself. One that was killed is no record; a step that is run again writes the very same
rows, which MLflow keeps once. Windows that have left the logs, or lost pairs or outcomes, are carried over from the run
before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from matchmaking import tracking
from matchmaking.base.errors import RefusedError
from matchmaking.base.files import written_whole
from matchmaking.base.records import Record, read_record
from matchmaking.base.settings import EXPERIMENT
from matchmaking.live.series import FINISHED, Followed, Series, followed
from matchmaking.live.windows import Period

WINDOWS, LIVE = "windows.parquet", "live.json"
TIME, TEXT, NUMBER, COUNT, YES = "datetime64[ns, UTC]", "object", "float64", "int64", "bool"
# the columns of windows.parquet
COLUMNS = {
    # the window, in UTC; `slice` and `value_of` are empty for all of its pairs
    **{"start": TIME, "end": TIME, "slice": TEXT, "value_of": TEXT, "metric": TEXT},
    # sha256 of the window's model: of several the one with most pairs
    "model": TEXT,
    # what was measured on the pairs whose outcomes have come; NaN where `withheld` says why not
    **{"value": NUMBER, "low": NUMBER, "high": NUMBER, "withheld": TEXT},
    **{"rows": COUNT, "labelled": COUNT, "positives": COUNT, "completeness": NUMBER},
    # whether the window is older than the label delay, so that its numbers stay
    "measured": YES,
    # what it was estimated to be before, from what had come by `estimated_at`: the window's end, or now
    **{"estimate": NUMBER, "estimate_low": NUMBER, "estimate_high": NUMBER, "estimate_withheld": TEXT},
    **{"effective_rows": NUMBER, "effective_positives": NUMBER, "method": TEXT, "estimated_at": TIME},
    # share of the window's pairs with a category that none had from which it was estimated
    "unsupported": NUMBER,
}
KEY = ["start", "slice", "value_of", "metric"]
# MLflow's metric keys begin so, and end with nothing, `_low` or `_high`
MEASURED, ESTIMATED = "live_measured_", "live_estimated_"
SERIES = {
    MEASURED: ("value", "low", "high"),
    ESTIMATED: ("estimate", "estimate_low", "estimate_high"),
}
BATCH = 1_000
RECORD = "can't be asked for the record of `observe`"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class DelayRecord(_Part):
    """How late outcomes come, see `matchmaking.live.delay.Delay`."""

    mature_days: float | None = None
    median_days: float | None = None
    ever: float = 0.0
    reason: str = ""


class FindingRecord(_Part):
    """Something odd in the logs, see `matchmaking.live.parts.Finding`."""

    code: str
    count: int
    examples: list[str] = []


class Look(_Part):
    """A window's values: `metrics` by name, each with `value`, `low` and `high`."""

    start: datetime
    end: datetime
    model: str
    rows: int
    labelled: int
    completeness: float
    metrics: dict[str, dict[str, float]]


class Newest(_Part):
    """The newest window that was measured, and the newest that was estimated; None where there is none."""

    measured: Look | None = None
    estimated: Look | None = None


class Past(_Part):
    """How a metric's estimates compare with what was measured later, over all windows that have both.

    Attributes:
        windows: how many those are.
        mean_error: estimate minus measurement, on average; `mean_absolute_error` without the sign.
        within: share of the windows where they differ by at most `tolerance`.
        covered: share of the windows whose estimate's interval holds what was measured.
    """

    metric: str
    windows: int
    mean_error: float
    mean_absolute_error: float
    within: float
    covered: float
    tolerance: float = 0.02


class Promoted(_Part):
    """The models that have been production: `known` is False where nobody could say; newest last in `models`."""

    known: bool = False
    models: list[str] = []
    serving: str = ""


class Live(Record):
    """`live.json`: what an execution of `observe` found beside the windows."""

    period: Period
    source: str = Field(default="", description="the prediction log, or the labelled dataset; no credentials in it")
    outcomes: str = Field(default="", description="the outcome log; empty for none")
    now: datetime
    delay: DelayRecord = DelayRecord()
    logs: dict[str, dict[str, int]] = Field(default={}, description="records by what became of them, for each log")
    findings: list[FindingRecord] = Field(default=[], description="what was odd in the logs")
    newest: Newest = Newest()
    past: list[Past] = Field(default=[], description="estimates against what was measured later, by metric")
    conditions: list[dict[str, Any]] = Field(default=[], description="what the alert rule saw")
    promoted: Promoted = Promoted()
    windows: int = Field(
        default=0, description="how many there are; `carried` of them have left the logs, or lost pairs or outcomes"
    )
    carried: int = 0
    notes: list[str] = Field(default=[], description="sentences for people: what is missing, and why")


@dataclass(frozen=True)
class Observed:
    """A finished run of `observe`.

    Attributes:
        run_id, name, started: of the MLflow run.
        live: its `live.json`.
        windows: its `windows.parquet`, typed as `COLUMNS` says.
    """

    run_id: str
    name: str
    started: datetime
    live: Live
    windows: pd.DataFrame


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of `COLUMNS` with their types, in order of time; one that is missing is empty."""
    empty: dict[str, Any] = {TEXT: "", NUMBER: float("nan"), COUNT: 0, YES: False, TIME: pd.NaT}
    columns = {}
    for name, kind in COLUMNS.items():
        found: Any = frame[name] if name in frame else [empty[kind]] * len(frame)
        columns[name] = pd.Series(found, index=frame.index, dtype=cast(Any, kind))
    # the order of metrics and slices stays that of the frame
    return pd.DataFrame(columns).sort_values(["start"], kind="stable", ignore_index=True)


def write_record(folder: Path, live: Live, windows: pd.DataFrame) -> None:
    """Writes `live.json` and `windows.parquet` into a folder, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / WINDOWS) as temporary:
        typed(windows).to_parquet(temporary, index=False)
    with written_whole(folder / LIVE) as temporary:
        temporary.write_text(live.as_json(indent=1) + "\n")


def read_folder(folder: Path) -> tuple[Live, pd.DataFrame]:
    """The record that `write_record` wrote there.

    Raises:
        RecordError: it isn't one, or a newer version's.
    """
    live = read_record(Live, (folder / LIVE).read_bytes(), LIVE)
    return live, typed(pd.read_parquet(folder / WINDOWS))


def followed_record(now: datetime) -> tuple[Followed, Observed] | None:
    """The installation's series, and the record of the run that looked at it last; None where there is none.

    Args:
        now: UTC.

    Raises:
        TrackingError: MLflow cannot be reached, after the retries.
        RecordError: the record can't be read, or a newer version wrote it.
    """
    found = followed(now)
    if found is None:
        return None
    with tracking.told(RECORD):
        return found, _read(tracking.client().get_run(found.run_id))


def newest_record(series: Series | None = None, *, before: str = "") -> Observed | None:
    """The newest finished run of `observe` with what it recorded; None where there is none.

    Args:
        series: only of runs that it continues; None for any.
        before: the id of a run that is passed over, with those that began after it; empty for none.

    Raises:
        TrackingError: MLflow cannot be reached, after the retries.
        RecordError: the record can't be read, or a newer version wrote it.
    """
    client = tracking.client()
    with tracking.told(RECORD):
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        until = client.get_run(before).info.start_time if before else None
        token = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id],
                FINISHED,
                order_by=["attributes.start_time DESC"],
                max_results=50,
                page_token=token,
            )
            for run in page:
                later = until is not None and (run.info.run_id == before or run.info.start_time > until)
                # not asked of the database: a URI may hold quotation marks
                if not later and (series is None or series.continues(Series.of(run.data.params))):
                    return _read(run)
            if not (token := page.token):
                return None


def _read(run: Any) -> Observed:
    client = tracking.client()
    with tempfile.TemporaryDirectory() as folder:
        for name in (LIVE, WINDOWS):
            client.download_artifacts(run.info.run_id, name, folder)
        live, windows = read_folder(Path(folder))
    started = pd.Timestamp(run.info.start_time, unit="ms", tz="UTC").to_pydatetime()
    return Observed(str(run.info.run_id), str(run.info.run_name), started, live, windows)


def carry_over(new: pd.DataFrame, old: pd.DataFrame | None) -> tuple[pd.DataFrame, list[str]]:
    """The windows of the logs, and those of an earlier run that knew more of them than the logs do now.

    A window that is in both is the logs', but where it has lost pairs or outcomes: then one of the logs was cut, and
    the earlier run's window is kept whole. Estimates and measurements of a window so come from the same look.

    Args:
        new: from the logs, in the columns of `COLUMNS`.
        old: of the earlier run; None for none.

    Returns:
        All of them, and the starts of those that were carried over, as ISO 8601.
    """
    if old is None or not len(old):
        return typed(new), []
    new, old = typed(new), typed(old)
    before = _counts(old)
    after = _counts(new).reindex(before.index, fill_value=0)
    lost = before.index[(after < before).any(axis=1)]
    kept = old["start"].isin(lost) | ~old["start"].isin(new["start"])
    carried = [start.isoformat() for start in sorted(old.loc[kept, "start"].unique())]
    return typed(pd.concat([old[kept], new[~new["start"].isin(lost)]], ignore_index=True)), carried


def _counts(frame: pd.DataFrame) -> pd.DataFrame:
    """How many pairs and outcomes each window has, by its start."""
    return frame[frame["slice"] == ""].groupby("start")[["rows", "labelled"]].max()


def points(windows: pd.DataFrame) -> list[tuple[str, float, int, int]]:
    """The series of whole windows as MLflow has them: key, value, time stamp (ms of the end), step (day of the start).

    What was withheld has no point.
    """
    whole = windows[windows["slice"] == ""]
    ends = (whole["end"] - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=1)
    days = (whole["start"] - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(days=1)
    found: list[tuple[str, float, int, int]] = []
    for prefix, columns in SERIES.items():
        for column, ending in zip(columns, ("", "_low", "_high"), strict=True):
            there = whole[column].notna()
            found += [
                (f"{prefix}{metric}{ending}", float(value), int(end), int(day))
                for metric, value, end, day in zip(
                    whole.loc[there, "metric"], whole.loc[there, column], ends[there], days[there], strict=True
                )
            ]
    return found


def log_points(run_id: str, windows: pd.DataFrame) -> int:
    """Records the series with a run, and says how many points that are; logged again they are the same rows.

    Raises:
        TrackingError: MLflow cannot be reached, after the retries.
    """
    from mlflow.entities import Metric

    found = points(windows)
    with tracking.told("can't record the windows"):
        for start in range(0, len(found), BATCH):
            tracking.client().log_batch(run_id, metrics=[Metric(*one) for one in found[start : start + BATCH]])
    return len(found)


def series(windows: pd.DataFrame, metric: str, slice_: str = "", value_of: str = "") -> pd.DataFrame:
    """One metric's windows, of all pairs or of a slice, in order of time.

    Raises:
        RefusedError: there is none of that name.
    """
    found = windows[
        (windows["metric"] == metric) & (windows["slice"] == slice_) & (windows["value_of"] == value_of)
    ].sort_values("start", ignore_index=True)
    if not len(found):
        said = f"{metric} of {slice_}={value_of}" if slice_ else metric
        raise RefusedError(f"no window has {said}")
    return found


def labels(findings: Sequence[Any]) -> list[FindingRecord]:
    """Findings of the logs as the record has them."""
    return [FindingRecord(code=one.code, count=one.count, examples=list(one.examples)) for one in findings]
