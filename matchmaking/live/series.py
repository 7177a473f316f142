"""Which series is the installation's, of all that `observe` was run on: the one that it looked at on most days of late.

Anybody may run `observe` on other logs, by another period, on a labelled file. Alerts, the dashboard and whoever asks
whether production is well follow one series, and the others only add to MLflow. Nothing says which one it is but the
runs themselves, so that there is nothing to set, and nothing to forget.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from matchmaking import tracking
from matchmaking.base.redact import redact
from matchmaking.base.settings import EXPERIMENT
from matchmaking.tracking.runs import PIPELINE_TAG

PIPELINE = "observe"
# today and those before it, UTC
DAYS = 15
# MLflow's parameters that say what a run looked at
PERIOD, SOURCE = "period", "source"
PREDICTIONS, OUTCOMES, DATA, PRODUCTION = "predictions", "outcomes", "data", "production"
# of runs that have ended well
FINISHED = f"tags.{PIPELINE_TAG} = '{PIPELINE}' and attributes.status = 'FINISHED'"
# of MLflow's metrics that are a window's
POINTS = "live_"
PAGE = 200
# at the end of a dataset's address, where it is a version's (`--data-rev`): here, and in DVC's remote
_VERSION = re.compile(r"(?<=/)[0-9a-f]{32}(?=\.csv$)|(?<=/files/md5/)[0-9a-f]{2}/[0-9a-f]{30}$")
ASKED = "can't be asked what `observe` looked at"


@dataclass(frozen=True)
class Series:
    """What a run of `observe` looked at. Runs on the same, whose content may grow, are one series.

    Attributes:
        period: of the windows.
        source: the prediction log, or the labelled dataset; no credentials in it, as in the others.
        outcomes: the outcome log; empty for none, None of a run that didn't record it (an earlier version's).
        production: of a labelled dataset, the folder of the model that scored it; empty for logs.
    """

    period: str
    source: str
    outcomes: str | None = ""
    production: str = ""

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Series:
        """The series of a run with these MLflow parameters, as `looked_at` gives them."""
        period, source = params.get(PERIOD, ""), _VERSION.sub("*", _place(params.get(SOURCE, "")))
        if PREDICTIONS in params:
            return cls(period, source, _place(params.get(OUTCOMES, "")))
        if DATA in params:
            return cls(period, source, production=_place(params.get(PRODUCTION, "")))
        return cls(period, source, None)

    def continues(self, before: Series) -> bool:
        """Whether a run on `before` may be one of this series; one of an earlier version, which said less, may."""
        return before in (self, Series(self.period, self.source, None))

    def __str__(self) -> str:
        outcomes = f" with {self.outcomes}" if self.outcomes else ""
        production = f", scored by {self.production}" if self.production else ""
        return f"{self.source or 'an unnamed log'}{outcomes}{production}, by {self.period or 'an unnamed period'}"


def looked_at(period: str, predictions: str, outcomes: str, data: str, production: str) -> dict[str, str | None]:
    """What a run of `observe` looks at, as MLflow's parameters; None for what it doesn't.

    Args:
        period: of the windows.
        predictions: URI of the prediction log, as it was given; credentials are taken out of it, as of the others.
        outcomes: of the outcome log.
        data: of a labelled dataset, in place of both.
        production: of the production folder.
    """
    found: dict[str, str | None] = {PERIOD: period, SOURCE: predictions or data, PREDICTIONS: predictions}
    found |= {OUTCOMES: outcomes, DATA: data, PRODUCTION: production}
    return {name: redact(text) if text else None for name, text in found.items()}


def _place(uri: str) -> str:
    """A URI as it is compared: a folder is the same with a slash at its end."""
    return uri.removeprefix("file://").rstrip("/") or uri


@dataclass(frozen=True)
class Followed:
    """The installation's series.

    Attributes:
        series: it.
        days: on how many of the last `DAYS` it was observed; 0 where nothing was.
        run_id, name: the run that looked last, by the time that it looked at.
        others: what else was observed in those days, the newest first.
    """

    series: Series
    days: int
    run_id: str
    name: str
    others: tuple[Series, ...] = ()


@dataclass(frozen=True)
class _Look:
    """A finished run: when it began, the moment that it took for now, and whether it has any window."""

    run_id: str
    name: str
    series: Series
    began: datetime
    moment: datetime
    found: bool


def followed(now: datetime, *, ending: str = "") -> Followed | None:
    """The installation's series: the one that finished runs looked at on most of the last `DAYS` days.

    Of several the one that was observed first; where there was no run, the newest run's. Runs that found no window (a
    schedule looks at its log before anybody has written one) count only where all are like that. Runs of earlier
    versions, which didn't record the outcome log, count for the first series that they may have been of.

    Args:
        now: UTC.
        ending: the id of a run that is about to finish, and counts; empty for none.

    Returns:
        None where there is no finished run.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    client = tracking.client()
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since = int((today - timedelta(days=DAYS - 1)).timestamp() * 1000)
    with tracking.told(ASKED):
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        runs = []
        for page in _pages(experiment.experiment_id, f"{FINISHED} and attributes.start_time >= {since}"):
            runs += page
        if ending and all(run.info.run_id != ending for run in runs):
            runs.append(client.get_run(ending))
        recent = bool(runs)
        if not recent:
            runs = next(_pages(experiment.experiment_id, FINISHED, size=1), [])
        if not runs:
            return None
        looks = _completed([_look(run) for run in runs])
        days: dict[Series, set[Any]] = {}
        for look in [look for look in looks if look.found] or looks:
            days.setdefault(look.series, set()).add(look.began.date())
        most = max(map(len, days.values()))
        often = [series for series, seen in days.items() if len(seen) == most]
        chosen = often[0] if len(often) == 1 else _first(experiment.experiment_id, often)
    of_it = [look for look in looks if look.series == chosen]
    newest = max(of_it, key=lambda look: (look.moment, look.began, look.run_id == ending))
    others = dict.fromkeys(look.series for look in reversed(looks) if look.series != chosen)
    return Followed(chosen, most if recent else 0, newest.run_id, newest.name, tuple(others))


def beside(run_id: str, now: datetime) -> str:
    """Why alerts and the dashboard don't follow a run that is about to finish, in a sentence; empty where they do.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    found = followed(now, ending=run_id)
    assert found is not None
    if found.run_id == run_id:
        return ""
    with tracking.told(ASKED):
        mine = Series.of(tracking.client().get_run(run_id).data.params)
    if found.series.continues(mine):
        return f"Not the newest look at its series: alerts and the dashboard follow {found.name}, which looked later."
    days = f"{found.days} of the last {DAYS} days"
    return (
        f"Not the series that alerts and the dashboard follow: they follow {found.series}, observed on {days}; "
        f"this is {mine}."
    )


def _look(run: Any) -> _Look:
    info, data = run.info, run.data
    began = datetime.fromtimestamp(info.start_time / 1000, UTC)
    try:
        asked = datetime.strptime(data.params.get("timestamp", ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        asked = began
    # one that takes a day to come for now, by mistake, mustn't count as the newest until then
    moment = min(asked, began)
    found = any(name.startswith(POINTS) for name in data.metrics)
    return _Look(str(info.run_id), str(info.run_name), Series.of(data.params), began, moment, found)


def _completed(looks: list[_Look]) -> list[_Look]:
    """The looks in order of time, with those of earlier versions given to the first series that continues theirs."""
    ordered = sorted(looks, key=lambda look: (look.began, look.run_id))
    whole = [look.series for look in ordered if look.series.outcomes is not None]
    return [
        replace(look, series=next((series for series in whole if series.continues(look.series)), look.series))
        for look in ordered
    ]


def _first(experiment: str, among: list[Series]) -> Series:
    """Which of some series was observed first, ever; `among` is in the order of the days that are known."""
    for page in _pages(experiment, FINISHED, order="ASC"):
        for run in page:
            mine = Series.of(run.data.params)
            for series in among:
                if series.continues(mine):
                    return series
    return among[0]


def _pages(experiment: str, condition: str, *, order: str = "DESC", size: int = PAGE) -> Any:
    token = None
    while True:
        page = tracking.client().search_runs(
            [experiment],
            condition,
            order_by=[f"attributes.start_time {order}", "attributes.run_id"],
            max_results=size,
            page_token=token,
        )
        yield list(page)
        if not (token := page.token):
            return
