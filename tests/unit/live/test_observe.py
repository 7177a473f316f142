"""`observe`: what is known of each window, from logs whose every answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchmaking import storage, tracking
from matchmaking.base.errors import InputError
from matchmaking.data import sample
from matchmaking.data.read import read_pairs
from matchmaking.data.schema import FEATURES
from matchmaking.live import collect, record
from matchmaking.live.as_of import Serving
from matchmaking.live.collect import fetch_logs, read_times, write_asked
from matchmaking.live.estimate import Minimum
from matchmaking.live.generate import generate_logs
from matchmaking.live.logs import Logs, from_labelled, read_logs
from matchmaking.live.observe import compare_past, newest, observe, observe_files
from matchmaking.live.parts import utc
from matchmaking.live.record import Promoted
from matchmaking.live.traffic import Champion, Plan

OLD, NEW = "a" * 64, "b" * 64
PLAN = Plan(start="2025-01-06", days=150, volume=120, delay=10, delay_spread=0.1, seed=3)
NOW = pd.Timestamp("2025-06-05T12:00:00Z")
LEAST = Minimum(effective_positives=60, effective_rows=200, window_rows=50)
OPTIONS: Any = {"minimum": LEAST, "slices": ("preferred_language",), "say": lambda line: None}


def old(pairs: pd.DataFrame) -> np.ndarray:
    """A model that is calibrated."""
    return sample.true_probability(pairs)


def new(pairs: pd.DataFrame) -> np.ndarray:
    """One that sees less: half of what there is to know."""
    return 0.5 * sample.true_probability(pairs) + 0.04


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("logs")
    generate_logs(out, PLAN, [Champion(0, OLD, old), Champion(90, NEW, new)])
    return out


@pytest.fixture(scope="module")
def logs(folder: Path) -> Logs:
    return read_logs(folder / "predictions", folder / "outcomes", NOW)


@pytest.fixture(scope="module")
def windows(logs: Logs) -> pd.DataFrame:
    return observe(logs, "week", NOW, serving=Serving(NEW, new), **OPTIONS)[1]


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of a run that has begun."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.client.cache_clear()
    yield tracking.start_run("observe", "20250605T120000Z", "job", {})[0]
    tracking.client.cache_clear()


def whole(frame: pd.DataFrame, metric: str = "average_precision") -> pd.DataFrame:
    return record.series(frame, metric).set_index("start")


def test_every_window_is_there_once(windows: pd.DataFrame, logs: Logs) -> None:
    assert not windows.duplicated(record.KEY).any()
    found = whole(windows)
    assert found["rows"].sum() == len(logs.frame)
    assert list(found.index) == list(pd.date_range("2025-01-06", periods=len(found), freq="7D", tz="UTC"))
    slices = windows[(windows["slice"] == "preferred_language") & (windows["metric"] == "recall")]
    assert slices["rows"].sum() == len(logs.frame)
    # the older ones count as measured, the newest don't, and none is measured after one that isn't
    assert found["measured"].iloc[0] and not found["measured"].iloc[-1]
    assert found["measured"].is_monotonic_decreasing
    assert (found.loc[found["measured"], "completeness"] > 0.95).all()


def test_estimates_are_near_the_truth(windows: pd.DataFrame, folder: Path) -> None:
    truth = pd.read_csv(folder / "truth.csv", parse_dates=["start"])
    truth = truth[truth["period"] == "week"].set_index("start")
    for metric in ("average_precision", "recall"):
        found = whole(windows, metric).join(truth[metric].rename("true"), how="inner")
        given = found[found["estimate"].notna()]
        assert len(given) >= 10
        error = (given["estimate"] - given["true"]).abs()
        assert error.mean() < 0.06, metric
        assert given["true"].between(given["estimate_low"], given["estimate_high"]).mean() >= 0.8


def test_an_estimate_knows_nothing_of_what_came_after(windows: pd.DataFrame, logs: Logs) -> None:
    """Looked at when a window had ended, with what had come by then, it was the same."""
    start = pd.Timestamp("2025-03-17", tz="UTC")
    end = start + pd.Timedelta(days=7)
    frame = logs.frame[logs.frame["time"] < end].copy()
    later = frame["outcome_time"] > end
    frame.loc[later, "outcome_time"], frame.loc[later, "match"] = pd.NaT, pd.NA
    then = Logs(frame.reset_index(drop=True), logs.orphans, [], logs.accounts)
    before = observe(then, "week", end, serving=Serving(OLD, old), **OPTIONS)[1]
    columns = ["estimate", "estimate_low", "estimate_high", "effective_rows", "estimated_at"]
    for metric in ("recall", "brier"):
        assert whole(windows, metric).loc[start, "estimate"] > 0
        pd.testing.assert_series_equal(
            whole(before, metric).loc[start, columns], whole(windows, metric).loc[start, columns]
        )


def test_after_a_promotion_the_new_model_is_asked_about_earlier_pairs(logs: Logs, windows: pd.DataFrame) -> None:
    # the new model's first whole week: not one of its own pairs has an outcome old enough
    start = pd.Timestamp("2025-04-07", tz="UTC")
    found = whole(windows)
    assert found.loc[start, "model"] == NEW and found.loc[start, "method"] == "robust"
    alone = whole(observe(logs, "week", NOW, serving=None, **OPTIONS)[1])
    assert np.isnan(alone.loc[start, "estimate"])
    assert alone.loc[start, "estimate_withheld"] == "the pairs old enough were scored by other models"
    # the old one's own pairs are enough for itself
    assert alone.loc[pd.Timestamp("2025-03-17", tz="UTC"), "estimate"] > 0


def test_pairs_of_which_the_reference_has_none_alike_are_told(logs: Logs) -> None:
    first = pd.Timestamp("2025-05-05", tz="UTC")

    def changed(of: int) -> Logs:
        """One of so many pairs comes from a city that is new on that day."""
        frame = logs.frame.copy()
        frame.loc[(frame["time"] >= first) & (np.arange(len(frame)) % of == 0), "city"] = "Ahmedabad"
        return Logs(frame, logs.orphans, [], logs.accounts)

    options = {**OPTIONS, "serving": Serving(OLD, old), "slices": ()}
    live, found = observe(changed(40), "week", NOW, **options)
    told = whole(found)["unsupported"]
    assert told[first] == pytest.approx(0.025, abs=0.01)
    # by June the reference has some of them
    assert told[told.index < first].max() == told[told.index >= pd.Timestamp("2025-05-26", tz="UTC")].max() == 0
    last = told.index[told > 0][-1]
    assert live.notes[-1].startswith(
        f"In {(told > 0).sum()} of {len(told)} windows, of them last that of {last:%Y-%m-%d} ({told[last]:.0%}), pairs "
        f"have a category of which no outcome was known"
    )
    # it stays with the estimate that it is of
    assert observe(changed(40), "week", NOW, earlier=found, **options)[0].notes == live.notes
    # so many are no estimate
    rows = whole(observe(changed(8), "week", NOW, **options)[1]).loc[first]
    assert rows["unsupported"] == pytest.approx(0.125, abs=0.01) and np.isnan(rows["estimate"])
    assert "of its pairs are like none of the reference" in rows["estimate_withheld"]
    clean, _ = observe(logs, "week", NOW, **options)
    assert not any("category" in note for note in clean.notes)


def test_what_was_estimated_in_time_is_taken_over(logs: Logs, windows: pd.DataFrame) -> None:
    marked = windows.assign(estimate=windows["estimate"] - 0.001)
    calls: list[int] = []

    def score(pairs: pd.DataFrame) -> np.ndarray:
        calls.append(len(pairs))
        return new(pairs)

    again = observe(logs, "week", NOW, serving=Serving(NEW, score), earlier=marked, **OPTIONS)[1]
    ended = windows["end"] <= NOW
    pd.testing.assert_series_equal(again.loc[ended, "estimate"], marked.loc[ended, "estimate"])
    # what is measured is measured anew; so is the window that goes on
    pd.testing.assert_frame_equal(again[["value", "low", "high"]], windows[["value", "low", "high"]])
    pd.testing.assert_series_equal(again.loc[~ended, "estimate"], windows.loc[~ended, "estimate"])
    # with other pairs in it, a window is estimated anew
    start = pd.Timestamp("2025-04-21", tz="UTC")
    fewer = marked.assign(rows=marked["rows"] - (marked["start"] == start))
    changed = observe(logs, "week", NOW, serving=Serving(NEW, new), earlier=fewer, **OPTIONS)[1]
    assert whole(changed).loc[start, "estimate"] != whole(marked).loc[start, "estimate"]


def test_windows_stay_when_the_log_is_trimmed(logs: Logs, windows: pd.DataFrame) -> None:
    cut = pd.Timestamp("2025-03-05", tz="UTC")
    trimmed = Logs(logs.frame[logs.frame["time"] >= cut], logs.orphans, [], logs.accounts)
    live, both = observe(trimmed, "week", NOW, serving=Serving(NEW, new), earlier=windows, **OPTIONS)
    # eight whole weeks, and the one that it was cut within
    assert live.carried == 9 and live.windows == windows["start"].nunique()
    pd.testing.assert_frame_equal(both.loc[both["start"] < cut], windows.loc[windows["start"] < cut])
    assert not both.duplicated(record.KEY).any()
    # and where the outcomes' log alone was
    without = logs.frame.copy()
    early = without["time"] < cut
    without.loc[early, "outcome_time"], without.loc[early, "match"] = pd.NaT, pd.NA
    trimmed = Logs(without, logs.orphans, [], logs.accounts)
    live, both = observe(trimmed, "week", NOW, serving=Serving(NEW, new), earlier=windows, **OPTIONS)
    assert live.carried == 9 and "kept as earlier runs found them: 2025-01-06 to 2025-03-03" in live.notes[-1]
    pd.testing.assert_frame_equal(both.loc[both["start"] < cut], windows.loc[windows["start"] < cut])


def test_a_labelled_dataset_is_measured(tmp_path: Path) -> None:
    pairs = sample.generate(3_000, 5)
    logs = from_labelled(pairs, old(pairs), OLD, NOW)
    live, found = observe(logs, "month", NOW, serving=Serving(OLD, old), **OPTIONS)
    row = whole(found).iloc[0]
    assert (row["rows"], row["labelled"], row["completeness"]) == (3_000, 3_000, 1.0)
    assert row["value"] > 0.5 and row["estimate_withheld"] == "it isn't known when outcomes came"
    assert live.findings[0].code == "no-time" and live.delay.reason == "the outcomes' times aren't known"
    # with times, by month, and then they are over and count
    time = pd.Series(pd.date_range("2025-01-01", "2025-04-30", periods=3_000).strftime("%Y-%m-%d %H:%M"))
    timed = from_labelled(pairs, old(pairs), OLD, NOW, time)
    live, found = observe(timed, "month", NOW, serving=Serving(OLD, old), **OPTIONS)
    assert whole(found)["measured"].tolist() == [True] * 4
    assert live.newest.measured is not None and live.newest.measured.start.month == 4


def test_times_of_a_labelled_dataset_are_read(tmp_path: Path) -> None:
    pairs = sample.generate(60, 5).assign(time="2025-03-01T10:00:00+05:30")
    pairs.to_csv(tmp_path / "timed.csv", index=False)
    found = read_times(tmp_path / "timed.csv")
    assert found is not None and found.tolist() == ["2025-03-01T10:00:00+05:30"] * 60
    pairs.drop(columns="time").to_csv(tmp_path / "plain.csv.gz", index=False)
    assert read_times(tmp_path / "plain.csv.gz") is None


@pytest.mark.filterwarnings("error")
def test_times_are_those_of_their_own_column_where_rows_end_in_a_comma(tmp_path: Path) -> None:
    """`read_pairs` takes such a file, and so each time must be read from below its header."""
    pairs = sample.generate(60, 5).assign(time="2025-03-01", updated_at="2026-07-07")
    header, *rows = pairs.to_csv(index=False).splitlines()
    (tmp_path / "commas.csv").write_text("\n".join([header, *(f"{row}," for row in rows)]) + "\n")
    assert read_pairs(tmp_path / "commas.csv")[0]["budget"].tolist() == pairs["budget"].tolist()
    found = read_times(tmp_path / "commas.csv")
    assert found is not None and found.tolist() == ["2025-03-01"] * 60


@pytest.mark.parametrize("typed", [False, True])
def test_times_of_parquet_and_of_parts(tmp_path: Path, typed: bool) -> None:
    """Of two parts in order; all have the column or none."""
    pairs = sample.generate(60, 5)
    times = pd.Series(pd.date_range("2026-01-01", periods=len(pairs), freq="h"))
    timed = pairs.assign(time=times if typed else times.astype(str))
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, part in enumerate((timed.iloc[:50], timed.iloc[50:])):
        part.to_parquet(folder / f"{number}.parquet", index=False)
    read = read_times(folder)
    assert read is not None
    assert utc(read)[0].tolist() == utc(timed["time"])[0].tolist()
    pairs.to_parquet(folder / "2.parquet", index=False)
    with pytest.raises(InputError, match=r"2\.parquet has no column 'time'"):
        read_times(folder)
    assert read_times(folder / "2.parquet") is None


def test_past_estimates_are_held_against_what_was_measured(windows: pd.DataFrame) -> None:
    found = {one.metric: one for one in compare_past(windows)}
    both = whole(windows)
    both = both[both["measured"] & both["estimate"].notna()]
    said = found["average_precision"]
    assert said.windows == len(both) > 5
    assert said.mean_error == pytest.approx((both["estimate"] - both["value"]).mean())
    assert said.within == pytest.approx(((both["estimate"] - both["value"]).abs() <= 0.02).mean())
    assert said.covered == pytest.approx(
        ((both["value"] >= both["estimate_low"]) & (both["value"] <= both["estimate_high"])).mean()
    )


def test_the_newest_of_each_kind(windows: pd.DataFrame) -> None:
    found = newest(windows)
    assert found.measured is not None and found.estimated is not None
    assert found.estimated.end > found.measured.end
    assert found.measured.metrics["recall"]["value"] == whole(windows, "recall").loc[found.measured.start, "value"]


def test_the_rule_is_given_the_delay(logs: Logs) -> None:
    from matchmaking.live.alerts import Condition

    seen = []

    def watch(delay: object) -> list[Condition]:
        seen.append(delay)
        return [Condition("performance/recall", True, "warning", "recall fell")]

    live, _ = observe(logs, "month", NOW, watch=watch, **OPTIONS)
    assert seen and live.conditions[0]["firing"] is True


def test_a_log_that_nobody_has_written_yet(tmp_path: Path, mlflow: str) -> None:
    """A schedule begins before the service writes logs: then there is nothing to tell, and nothing fails."""
    write_asked(tmp_path, "week", "20250605T120000Z", ("s3://datasets/logs/predictions", "", "", ""), None)
    live = observe_files(tmp_path, tmp_path / "none", tmp_path / "out", run_id=mlflow)
    assert live.windows == 0 and len(record.read_folder(tmp_path / "out")[1]) == 0


def test_what_is_odd_is_named_and_nothing_counted_twice(folder: Path, tmp_path: Path, mlflow: str) -> None:
    place = tmp_path / "logs"
    fetch_logs(str(folder / "predictions"), str(folder / "outcomes"), "", place)
    again = pd.read_parquet(folder / "predictions/2025-01.parquet")
    again.to_parquet(place / "predictions/again.parquet")
    (place / "outcomes/cut.jsonl").write_text(
        '{"version": 1, "pair_id": "nobody", "time": "2025-02-01", "match": 1}\n{"ver'
    )
    write_asked(place, "month", "20250605T120000Z", ("p", "o", "", ""), [NEW])
    live = observe_files(place, tmp_path / "none", tmp_path / "out", run_id=mlflow)
    found = {one.code: one.count for one in live.findings}
    # the old model served for 90 days
    assert found["model-not-promoted"] > 10_000 * 0.5
    assert (found["duplicate-prediction"], found["half-written-part"], found["outcome-without-prediction"]) == (
        len(again),
        1,
        1,
    )
    frame = record.read_folder(tmp_path / "out")[1]
    assert whole(frame)["rows"].sum() == sum(len(pd.read_parquet(p)) for p in (folder / "predictions").iterdir())
    assert live.promoted == Promoted(known=True, models=[NEW])


def test_neither_and_both_are_refused(tmp_path: Path, folder: Path) -> None:
    for uris in (("", "", ""), ("a", "", "b")):
        with pytest.raises(InputError, match="either the logs"):
            fetch_logs(*uris, tmp_path)
    with pytest.raises(InputError, match="outcomes say nothing"):
        fetch_logs("", "o", "d", tmp_path)
    with pytest.raises(InputError, match=r"nowhere"):
        fetch_logs(str(tmp_path / "nowhere"), "", "", tmp_path / "out")


def test_a_run_of_a_time_to_come_is_refused(tmp_path: Path) -> None:
    write_asked(tmp_path, "week", tracking.now(), ("p", "", "", ""), None)
    with pytest.raises(InputError, match="is still to come"):
        write_asked(tmp_path, "week", "29990101T000000Z", ("p", "", "", ""), None)


def test_a_scheduled_log_that_may_not_be_read_isnt_one_that_nobody_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(uri: str) -> list[str]:
        raise InputError(f"{uri}: access denied")

    monkeypatch.setattr(collect, "PREDICTIONS_URI", str(tmp_path / "none"))
    fetch_logs(str(tmp_path / "none"), "", "", tmp_path / "out")
    monkeypatch.setattr(storage, "list_names", refused)
    with pytest.raises(InputError, match="access denied"):
        fetch_logs(str(tmp_path / "none"), "", "", tmp_path / "out")


def test_the_version_of_logs_is_that_of_their_parts(folder: Path, tmp_path: Path) -> None:
    first = fetch_logs(str(folder / "predictions"), "", "", tmp_path / "1")
    assert first == fetch_logs(str(folder / "predictions"), "", "", tmp_path / "2")
    assert first != fetch_logs(str(folder / "predictions"), str(folder / "outcomes"), "", tmp_path / "3")


def test_generated_logs_hold_what_has_come_by_the_last_day(folder: Path) -> None:
    outcomes = pd.concat(pd.read_parquet(part) for part in (folder / "outcomes").iterdir())
    assert outcomes["time"].max() < pd.Timestamp("2025-06-05", tz="UTC")
    predictions = pd.concat(pd.read_parquet(part) for part in (folder / "predictions").iterdir())
    assert set(predictions["model"]) == {OLD, NEW} and 0 < len(outcomes) < len(predictions)
    assert list(predictions.columns)[3:16] == list(FEATURES)
    with pytest.raises(InputError, match="two worlds"):
        generate_logs(folder, PLAN, [Champion(0, OLD, old)])
