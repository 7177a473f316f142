"""The record of `observe` in MLflow: the whole series in each run, no point twice, none missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from matchmaking import tracking
from matchmaking.base.errors import RefusedError
from matchmaking.live import record
from matchmaking.live.record import Live
from matchmaking.live.series import Series

NOW = "2026-03-01T00:00:00Z"


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.client.cache_clear()
    yield
    tracking.client.cache_clear()


def windows(first: str, weeks: int, rows: int = 100, value: float = 0.5) -> pd.DataFrame:
    """Weeks with two metrics of all pairs and of a slice; the last isn't measured, the first not estimated."""
    starts = pd.date_range(first, periods=weeks, freq="7D", tz="UTC")
    found = [
        {
            "start": start,
            "end": start + pd.Timedelta(days=7),
            "slice": column,
            "value_of": "Zürich" if column else "",
            "metric": metric,
            "model": "a" * 64,
            "value": np.nan if place == weeks - 1 else value + place / 100,
            "low": np.nan if place == weeks - 1 else 0.1,
            "high": np.nan if place == weeks - 1 else 0.9,
            "withheld": "no outcome" if place == weeks - 1 else "",
            "rows": rows,
            "labelled": rows - 1,
            "measured": place < weeks - 1,
            "estimate": np.nan if place == 0 else value,
            "method": "pape",
        }
        for place, start in enumerate(starts)
        for column in ("", "city")
        for metric in ("recall", "average_precision")
    ]
    return record.typed(pd.DataFrame(found))


def observe(frame: pd.DataFrame, folder: Path, stamp: str, *, finish: bool = True, source: str = "logs") -> str:
    """A run of `observe` as its last step records it; without `finish` it was killed after the points."""
    params = {"period": "week", "source": source, "predictions": source}
    run_id, _ = tracking.start_run("observe", stamp, f"job-{stamp}", params)
    record.write_record(folder, Live(period="week", source=source, now=pd.Timestamp(NOW).to_pydatetime()), frame)
    record.log_points(run_id, frame)
    if finish:
        tracking.finish_run(run_id, params={}, metrics={}, history=None, tags={}, artifacts=folder)
    return run_id


def test_what_was_recorded_is_read_back(tmp_path: Path, mlflow: None) -> None:
    assert record.newest_record() is None
    frame = windows("2026-01-05", 5)
    run_id = observe(frame, tmp_path / "out", "20260301T000000Z")
    found = record.newest_record(Series("week", "logs"))
    assert found is not None
    assert (found.run_id, found.name, found.live.period) == (run_id, "observe_20260301T000000Z", "week")
    pd.testing.assert_frame_equal(found.windows, frame)
    assert record.newest_record(Series("month", "logs")) is None
    assert record.newest_record(Series("week", "other")) is None
    assert record.newest_record(Series("week", "logs", "outcomes")) is None


def test_each_point_is_there_once_at_its_windows_end(tmp_path: Path, mlflow: None) -> None:
    frame = windows("2026-01-05", 5)
    run_id = observe(frame, tmp_path / "out", "20260301T000000Z")
    assert record.log_points(run_id, frame) == len(record.points(frame))
    history = tracking.client().get_metric_history(run_id, "live_measured_recall")
    assert [(point.step, point.timestamp, point.value) for point in history] == [
        (20458 + 7 * week, (20465 + 7 * week) * 86_400_000, 0.5 + week / 100) for week in range(4)
    ]
    assert len(tracking.client().get_metric_history(run_id, "live_estimated_recall")) == 4
    assert not tracking.client().get_metric_history(run_id, "live_estimated_recall_low")
    # the newest window is what MLflow shows as the metric's value
    assert tracking.client().get_run(run_id).data.metrics["live_measured_recall"] == pytest.approx(0.53)


def test_a_run_that_was_killed_is_no_record(tmp_path: Path, mlflow: None) -> None:
    first = observe(windows("2026-01-05", 5), tmp_path / "1", "20260301T000000Z")
    killed = observe(windows("2026-01-05", 6), tmp_path / "2", "20260302T000000Z", finish=False)
    found = record.newest_record(Series("week", "logs"))
    assert found is not None and found.run_id == first
    # again, to its end
    assert observe(windows("2026-01-05", 6), tmp_path / "2", "20260302T000000Z") == killed
    found = record.newest_record(Series("week", "logs"))
    assert found is not None and found.run_id == killed
    assert len(tracking.client().get_metric_history(killed, "live_measured_recall")) == 5
    before = record.newest_record(Series("week", "logs"), before=killed)
    assert before is not None and before.run_id == first


def test_windows_that_left_the_logs_are_carried_over() -> None:
    old, new = windows("2026-01-05", 5, value=0.4), windows("2026-01-26", 5, value=0.6)
    both, carried = record.carry_over(new, old)
    assert carried == ["2026-01-05T00:00:00+00:00", "2026-01-12T00:00:00+00:00", "2026-01-19T00:00:00+00:00"]
    pd.testing.assert_frame_equal(both.iloc[:12], old.iloc[:12])
    pd.testing.assert_frame_equal(both.iloc[12:].reset_index(drop=True), new)
    assert record.carry_over(new, None)[1] == []


def test_a_window_that_the_log_was_cut_within_is_carried_over_whole() -> None:
    old, new = windows("2026-01-05", 5), windows("2026-01-12", 5)
    new.loc[new["start"] == new["start"].min(), "rows"] = 40
    both, carried = record.carry_over(new, old)
    assert carried == ["2026-01-05T00:00:00+00:00", "2026-01-12T00:00:00+00:00"]
    assert (both["rows"] == 100).all() and not both.duplicated(record.KEY).any() and len(both) == 6 * 4
    # and so is a later one
    new = windows("2026-01-12", 5)
    new.loc[new["start"] == old["start"].max(), "rows"] = 40
    both, carried = record.carry_over(new, old)
    assert carried == ["2026-01-05T00:00:00+00:00", "2026-02-02T00:00:00+00:00"]
    assert (both["rows"] == 100).all() and not both.duplicated(record.KEY).any() and len(both) == 6 * 4
    # nothing else of it: more pairs are more pairs
    assert record.carry_over(windows("2026-01-05", 5, rows=101), old)[1] == []


def test_windows_stay_measured_where_the_outcomes_alone_were_trimmed() -> None:
    old, new = windows("2026-01-05", 5, value=0.8), windows("2026-01-05", 5)
    cut = new["start"] < pd.Timestamp("2026-01-19", tz="UTC")
    new.loc[cut, ["value", "low", "high"]], new.loc[cut, "labelled"] = np.nan, 0
    both, carried = record.carry_over(new, old)
    assert carried == ["2026-01-05T00:00:00+00:00", "2026-01-12T00:00:00+00:00"]
    assert record.series(both, "recall")["value"].tolist()[:4] == [0.8, 0.81, 0.52, 0.53]
    assert (both["labelled"] == 99).all() and len(both) == 5 * 4


def test_one_metric_of_a_slice() -> None:
    found = record.series(windows("2026-01-05", 5), "recall", "city", "Zürich")
    assert len(found) == 5 and found["start"].is_monotonic_increasing
    with pytest.raises(RefusedError, match="no window has recall of city=Bern"):
        record.series(windows("2026-01-05", 5), "recall", "city", "Bern")
