"""What the page's script draws from: numbers in columns, as small as they can be, and addresses.

Times are milliseconds since 1970 UTC; what is missing is null. Columns of the same table have the same length, and a
run is named by its place in `runs`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.escape import visible
from matchmaking.evidence.metrics import LOWER_IS_BETTER
from matchmaking.live.estimate import METRICS
from matchmaking.reporting.dashboard.now import PRIMARY, drifted_columns, name_of
from matchmaking.reporting.dashboard.records import Records
from matchmaking.reporting.dashboard.reigns import names, reigns

# of windows x slices x metrics: about 4 MB of page
MOST_CELLS = 100_000
# of runs x columns in the heat map
MOST_DRIFT_RUNS = 400
REASON = 300
# what a slice's numbers are rounded to; those of whole windows are exact
DIGITS = 4
VALUES = ("value", "low", "high", "estimate", "estimate_low", "estimate_high")


def page_data(records: Records) -> dict[str, Any]:
    """All tables of the page, JSON-serialisable: `metrics`, `runs`, `live`, `holdout`, `reigns`, `drift`, ..."""
    return {
        "made": int(records.now.timestamp() * 1000),
        "primary": PRIMARY,
        "metrics": {name: {"label": name_of(name), "lower": name in LOWER_IS_BETTER} for name in METRICS},
        "runs": _runs(records),
        "live": _live(records),
        "holdout": _holdout(records),
        "reigns": [
            {"name": reign.name, "start": reign.start, "end": reign.end, "how": reign.how, "url": reign.url}
            for reign in reigns(records)
        ],
        "drift": _drift(records),
        "candidates": _candidates(records),
        "data": _data(records),
        "steps": _steps(records),
    }


def _runs(records: Records) -> dict[str, list[Any]]:
    runs = records.runs
    return {
        "id": [run.id for run in runs],
        "name": [run.name for run in runs],
        "pipeline": [run.pipeline for run in runs],
        "status": [run.status for run in runs],
        "start": [run.start for run in runs],
        "end": [run.end for run in runs],
        "url": [run.url for run in runs],
        "reason": [run.reason[:REASON] for run in runs],
        "verdict": [visible(run.tags.get("verdict", "")) for run in runs],
    }


def _live(records: Records) -> dict[str, Any] | None:
    """The series of `observe`: for each slice its sizes, and by metric the `VALUES`, along the windows' `end`s."""
    if records.observed is None or not len(records.observed.windows):
        return None
    windows, live = records.observed.windows, records.observed.live
    known = names(records)
    starts = pd.Index(windows["start"].unique()).sort_values()
    whole = records.whole.drop_duplicates("start").set_index("start").reindex(starts)
    columns = windows.groupby(["slice", "value_of"], sort=True).ngroups
    present = set(windows["metric"].unique())
    metrics = [name for name in METRICS if name in present]
    kept = max(MOST_CELLS // max(columns * len(metrics), 1), 1)
    slices = []
    for (column, value), rows in windows.groupby(["slice", "value_of"], sort=True):
        shown = starts if not column else starts[-kept:]
        rows = rows[rows["start"] >= shown[0]]
        sizes = rows.drop_duplicates("start").set_index("start").reindex(shown)
        by_metric = {}
        for metric, part in rows.groupby("metric", sort=False):
            part = part.set_index("start").reindex(shown)
            by_metric[str(metric)] = {
                **{name: _numbers(part[name], None if not column else DIGITS) for name in VALUES},
                **_withheld(part),
            }
        slices.append(
            {
                "slice": visible(column),
                "value": visible(value),
                "first": len(starts) - len(shown),
                "rows": _numbers(sizes["rows"], 0),
                "labelled": _numbers(sizes["labelled"], 0),
                "completeness": _numbers(sizes["completeness"], 3),
                "measured": [bool(yes) if not pd.isna(yes) else False for yes in sizes["measured"]],
                "metrics": by_metric,
            }
        )
    run = next((place for place, run in enumerate(records.runs) if run.id == records.observed.run_id), None)
    return {
        "run": run,
        "period": live.period,
        "start": _times(starts),
        "end": _times(whole["end"]),
        "model": [known.get(model, str(model)[:12]) if isinstance(model, str) else "" for model in whole["model"]],
        "slices": slices,
        "trimmed": kept if kept < len(starts) and columns > 1 else None,
        "past": [one.model_dump(mode="json") for one in live.past],
        "delay": live.delay.model_dump(mode="json"),
        "findings": [
            {"what": visible(one.code), "count": one.count, "examples": list(map(visible, one.examples[:3]))}
            for one in live.findings
        ],
        "notes": list(map(visible, live.notes)),
    }


def _withheld(part: pd.DataFrame) -> dict[str, Any]:
    """Why there is no value, by the window's place; left out where there is nothing to say."""
    found = {}
    for column in ("withheld", "estimate_withheld"):
        told = {place: visible(text) for place, text in enumerate(part[column]) if isinstance(text, str) and text}
        if told:
            found[column] = told
    return found


def _holdout(records: Records) -> dict[str, list[Any]]:
    """Production's metrics in each `evaluate`."""
    places = [n for n, run in enumerate(records.runs) if run.pipeline == "evaluate" and run.status == "FINISHED"]
    runs = [records.runs[place] for place in places]
    return {"run": places, **{name: [run.metrics.get(f"production_{name}") for run in runs] for name in METRICS}}


def _drift(records: Records) -> dict[str, Any]:
    """Each run's distance, threshold and mark by column: rows of `statistic` and so on are runs."""
    places = [n for n, run in enumerate(records.runs) if "drifted" in run.metrics][-MOST_DRIFT_RUNS:]
    runs = [records.runs[place] for place in places]
    columns: dict[str, None] = {}
    for run in reversed(runs):
        columns |= dict.fromkeys(
            name.removeprefix("drifted_") for name in run.metrics if name.startswith("drifted_") and name != "drifted_"
        )
    ordered = sorted(columns, key=lambda name: (name not in ("match", "score"), name))
    return {
        "columns": list(map(visible, ordered)),
        "run": places,
        "url": [run.drift_url for run in runs],
        "drifted": [bool(run.metrics["drifted"]) for run in runs],
        "statistic": [[_rounded(run.metrics.get(f"drift_{name}")) for name in ordered] for run in runs],
        "threshold": [[_rounded(run.metrics.get(f"drift_threshold_{name}")) for name in ordered] for run in runs],
        "columns_drifted": [
            [ordered.index(name) for name in ordered if visible(name) in marked]
            for marked in (set(drifted_columns(run)) for run in runs)
        ],
    }


def _candidates(records: Records) -> dict[str, Any]:
    """Each retraining's differences: `metrics` by name, each with `difference`, `low`, `high` and `margin`."""
    trains = ("retrain", "sweep")
    places = [n for n, run in enumerate(records.runs) if run.pipeline in trains and run.status == "FINISHED"]
    runs = [records.runs[place] for place in places]
    found = {
        name.removeprefix("difference_").removesuffix("_margin")
        for run in runs
        for name in run.metrics
        if name.startswith("difference_") and name.endswith("_margin")
    }
    primary = next((run.params["primary_metric"] for run in reversed(runs) if "primary_metric" in run.params), PRIMARY)
    return {
        "run": places,
        "primary": primary,
        "package": [visible(run.tags.get("candidate_uri", "").rstrip("/").rpartition("/")[2]) for run in runs],
        "metrics": {
            name: {
                key: [run.metrics.get(f"difference_{name}{ending}") for run in runs]
                for key, ending in (("difference", ""), ("low", "_low"), ("high", "_high"), ("margin", "_margin"))
            }
            for name in sorted(found, key=lambda name: (name != primary, name))
        },
        "labels": {name: name_of(name) for name in sorted(found)},
    }


def _data(records: Records) -> dict[str, list[Any]]:
    """The size and the match rate of each run's dataset, and what production's encoder doesn't know of it."""
    places = [n for n, run in enumerate(records.runs) if "rows" in run.metrics and "match_rate" in run.metrics]
    runs = [records.runs[place] for place in places]
    return {
        "run": places,
        "rows": [int(run.metrics["rows"]) for run in runs],
        "match_rate": [run.metrics["match_rate"] for run in runs],
        "unseen": [int(run.metrics.get("unseen_categories", 0)) for run in runs],
        "unseen_share": [run.metrics.get("unseen_share", 0.0) for run in runs],
    }


def _steps(records: Records) -> dict[str, Any]:
    """The seconds of each run's steps: rows are runs."""
    places = [n for n, run in enumerate(records.runs) if any(name.startswith("seconds_") for name in run.metrics)]
    found: dict[str, None] = {}
    for place in places:
        found |= dict.fromkeys(
            name.removeprefix("seconds_") for name in records.runs[place].metrics if name.startswith("seconds_")
        )
    order = ("ingest", "validate", "split", "train", "score", "evaluate", "compare", "drift", "join", "observe")
    steps = [*(name for name in order if name in found), *sorted({*found} - {*order})]
    return {
        "names": list(map(visible, steps)),
        "run": places,
        "seconds": [
            [_rounded(records.runs[place].metrics.get(f"seconds_{name}")) for name in steps] for place in places
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.5g}")


def _numbers(values: pd.Series, digits: int | None) -> list[Any]:
    """Numbers for JSON: exact, or with as many digits after the point."""
    found = values.to_numpy(dtype=float)
    if digits is not None:
        found = found.round(digits)
    there = np.isfinite(found)
    numbers = found.tolist()
    if there.all() and digits != 0:
        return numbers
    kind = int if digits == 0 else float
    return [kind(value) if yes else None for value, yes in zip(numbers, there.tolist(), strict=True)]


def _times(values: Any) -> list[int]:
    moments = pd.DatetimeIndex(values).tz_convert("UTC")
    return [int(moment) for moment in (moments - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=1)]
