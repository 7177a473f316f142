"""Which of all series is the installation's: by real runs in MLflow, at times of their own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from matchmaking import tracking
from matchmaking.base.settings import EXPERIMENT
from matchmaking.live.series import Series, beside, followed, looked_at
from tests.observe_fixtures import begin

NOW = datetime(2026, 3, 15, 9, tzinfo=UTC)
LOGS = {"period": "week", "source": "s3://logs/p", "predictions": "s3://logs/p", "outcomes": "s3://logs/o"}
OTHER = {**LOGS, "source": "s3://new/p", "predictions": "s3://new/p"}
CSV = {"period": "week", "source": "/a.csv", "data": "/a.csv", "production": "/model"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without a run: making its tables takes seconds."""
    place = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{place}").search_experiments()
    return place


@pytest.fixture(autouse=True)
def mlflow(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.copyfile(tables, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.client.cache_clear()
    yield
    tracking.client.cache_clear()


def looked(
    params: dict[str, str], *days_ago: float, status: str = "FINISHED", windows: bool = True, timestamp: str = ""
) -> str:
    """Runs of `observe` that began so many days before `NOW`; the last one's id."""
    for each in days_ago:
        at = NOW - timedelta(days=each)
        found = {"live_measured_recall": 0.8} if windows else {"rows": 0.0}
        run_id = begin({**params, "timestamp": timestamp or f"{at:%Y%m%dT%H%M%SZ}"}, at, found)
        tracking.client().set_terminated(run_id, status)
    return run_id


def chosen(days_later: float = 0) -> Series | None:
    found = followed(NOW + timedelta(days=days_later))
    return found.series if found else None


def test_the_first_run_ever_is_of_the_installations_series() -> None:
    assert followed(NOW) is None
    tracking.client().create_experiment(EXPERIMENT)
    assert followed(NOW) is None
    run_id = begin(CSV, NOW)
    assert followed(NOW) is None and beside(run_id, NOW) == ""
    found = followed(NOW, ending=run_id)
    assert found is not None
    assert (found.series, found.run_id, found.days, found.others) == (Series.of(CSV), run_id, 1, ())


def test_days_count_and_not_runs() -> None:
    looked(CSV, *(0.01 * n for n in range(6)), 1)
    newest = looked(LOGS, 5, 4, 3)
    found = followed(NOW)
    assert found is not None
    assert (found.series, found.days, found.run_id) == (Series.of(LOGS), 3, newest)
    assert found.others == (Series.of(CSV),)


@pytest.mark.parametrize("other", [{**LOGS, "period": "day"}, {**LOGS, "outcomes": "/tried"}, OTHER, CSV])
def test_what_differs_in_anything_is_another_series_and_is_told(other: dict[str, str]) -> None:
    looked(LOGS, 3, 2, 1)
    mine = looked(other, 0)
    said = beside(mine, NOW)
    assert said == (
        "Not the series that alerts and the dashboard follow: they follow s3://logs/p with s3://logs/o, by week, "
        f"observed on 3 of the last 15 days; this is {Series.of(other)}."
    )


def test_a_labelled_file_scored_by_another_model_is_another_series() -> None:
    assert Series.of(CSV) != Series.of({**CSV, "production": "/candidate"})
    assert str(Series.of(CSV)) == "/a.csv, scored by /model, by week"


def test_the_versions_of_a_dataset_are_one_series() -> None:
    """Else a schedule on a branch of the data would begin anew with each, and follow an old one for a week."""
    for place in ("/work/data/{}{}.csv", "s3://dvc/files/md5/{}/{}"):
        first, second = (place.format(n * 2, n * 30) for n in "ab")
        assert Series.of({**CSV, "source": first}) == Series.of({**CSV, "source": second})
        assert str(Series.of({**CSV, "source": first})).startswith(place.partition("{")[0] + "*")


def test_where_logs_are_joined_with_a_models_folder_or_not_is_the_same_series() -> None:
    assert Series.of(LOGS) == Series.of({**LOGS, "production": "/candidate"})


def test_a_tie_goes_to_the_one_that_was_observed_first_ever() -> None:
    looked(CSV, 200)
    looked(LOGS, 100)
    looked(LOGS, 14, 3, 2)
    looked(CSV, 13, 1, 0)
    assert chosen() == Series.of(CSV)


def test_a_switch_takes_over_once_it_was_observed_on_most_days() -> None:
    looked(LOGS, *range(15, 0, -1))
    found = []
    for day in range(9):
        looked(OTHER, -day)
        found.append(chosen(day))
    # of fifteen days the old one has seven on the eighth, and the new one eight
    assert found == [Series.of(LOGS)] * 7 + [Series.of(OTHER)] * 2


def test_at_once_where_the_runs_on_the_old_one_are_deleted() -> None:
    looked(LOGS, 20)
    old = [looked(LOGS, day) for day in (3, 2, 1)]
    looked(OTHER, 0)
    assert chosen() == Series.of(LOGS)
    for run_id in old:
        tracking.client().delete_run(run_id)
    assert chosen() == Series.of(OTHER)


def test_without_a_run_of_late_it_is_the_newest() -> None:
    looked(LOGS, 60, 50, 40)
    newest = looked(CSV, 20)
    found = followed(NOW)
    assert found is not None
    assert (found.series, found.run_id, found.days) == (Series.of(CSV), newest, 0)


def test_the_window_is_of_fifteen_days_of_utc() -> None:
    looked(LOGS, 14.3)  # 2026-03-01 01:48
    looked(CSV, 14.4)  # 2026-02-28 23:24
    assert chosen() == Series.of(LOGS)


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_only_finished_runs_count(status: str) -> None:
    looked(CSV, 5, 4, 3, status=status)
    looked(LOGS, 1)
    found = followed(NOW)
    assert found is not None and (found.series, found.others) == (Series.of(LOGS), ())


def test_a_log_that_nobody_writes_is_not_followed_where_another_has_windows() -> None:
    looked(OTHER, 3, 2, 1, windows=False)
    assert chosen() == Series.of(OTHER)
    looked(LOGS, 0)
    assert chosen() == Series.of(LOGS)


def test_a_folder_is_the_same_with_a_slash_and_credentials_are_not_recorded() -> None:
    given = looked_at("week", "s3://me:secret@logs/p/", "https://h/o?X-Amz-Signature=abc", "", "")
    assert given["predictions"] == given["source"] == "s3://***@logs/p/"
    assert given["outcomes"] == "https://h/o?X-Amz-Signature=***" and given["data"] is None
    there = {name: text for name, text in given.items() if text}
    assert Series.of(there) == Series.of({**there, "source": "s3://***@logs/p"})
    assert Series.of({**LOGS, "source": "file:///logs/p"}) == Series.of({**LOGS, "source": "/logs/p/"})


def test_runs_of_an_earlier_version_count_for_the_first_series_that_they_may_be_of() -> None:
    before = {"period": "week", "source": "s3://logs/p"}
    looked(before, *range(10, 4, -1))
    assert chosen() == Series("week", "s3://logs/p", None)
    looked(LOGS, 4)
    # one try with other outcomes inherits nothing
    looked({**LOGS, "outcomes": "/tried"}, 3, 2)
    found = followed(NOW)
    assert found is not None
    assert (found.series, found.days) == (Series.of(LOGS), 7)
    assert found.series.continues(Series.of(before)) and not Series.of(OTHER).continues(Series.of(before))


def test_runs_that_say_nothing_at_all_are_a_series() -> None:
    looked({}, 2)
    assert str(chosen()) == "an unnamed log, by an unnamed period"


def test_a_look_back_is_not_the_newest_and_nor_for_good_is_one_from_the_future() -> None:
    newest = looked(LOGS, 2)
    back = looked(LOGS, 1, timestamp="20251201T000000Z")
    found = followed(NOW)
    assert found is not None and found.run_id == newest
    assert beside(back, NOW).startswith("Not the newest look at its series: alerts and the dashboard follow observe_")
    ahead = looked(LOGS, 0.5, timestamp="20360101T000000Z")
    found = followed(NOW)
    assert found is not None and found.run_id == ahead
    after = looked(LOGS, 0.4)
    found = followed(NOW)
    assert found is not None and found.run_id == after
