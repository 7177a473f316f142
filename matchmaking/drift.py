"""Has the data moved? Current pairs against reference pairs: each feature, the target, production's scores.

Evidently measures and draws; this module chooses what it measures, and says in `drift.json` what came of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.errors import InputError
from matchmaking.schema import CATEGORICAL, FEATURES, TARGET

SCORE = "score"
# `urgency_level` is ordinal: a distance that knows 1 is closer to 2 than to 5 suits it, so it stays numeric
NOMINAL = (*CATEGORICAL, "availability", TARGET)

# numeric: Wasserstein distance over the reference's standard deviation (0.1: a shift by a tenth of it);
# nominal: Jensen-Shannon distance, natural logarithm, in [0, 0.833]. Evidently's defaults above 1,000 rows.
METHODS = {"numeric": "wasserstein", "nominal": "jensenshannon"}
THRESHOLDS = {"numeric": 0.1, "nominal": 0.1, TARGET: 0.05}  # 0.05: matches from 11.6 % to 16.5 % or 7.5 %
# Two samples of the same data differ too, by a distance that falls as 1/sqrt(n), where n = n1 n2 / (n1 + n2).
# No threshold is below this many 1/sqrt(n): at 0.1 alone, two of three samples of 300 pairs had a "drifted"
# column, with this one of twenty.
NOISE = {"numeric": 3.0, "nominal": 2.0, TARGET: 1.0}

# drifted as a whole: half of the features, or the target, or the scores
SHARE_THRESHOLD = 0.5
# the distance between two samples this large of the same data is about 0.01, a tenth of the threshold
MAX_ROWS = 50_000


def halves(reference: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two random halves of `reference`, in its row order: what a comparison looks like where nothing drifted.

    Raises:
        InputError: fewer than two rows.
    """
    if len(reference) < 2:
        raise InputError(f"{len(reference)} rows cannot be compared with themselves; give at least 2")
    first = np.zeros(len(reference), dtype=bool)
    first[np.random.default_rng(seed).permutation(len(reference))[: len(reference) // 2]] = True
    return reference[first], reference[~first]


def detect_drift(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    out_dir: Path,
    *,
    self_comparison: bool = False,
    max_rows: int = MAX_ROWS,
    share_threshold: float = SHARE_THRESHOLD,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares two sets of pairs and writes `drift.html` (Evidently's, self-contained) and `drift.json`.

    A frame above `max_rows` is sampled, the same way every time; time and memory beyond that do not grow.

    Args:
        reference: the feature columns, and where known `match` (0/1) and `score` (production's probability).
        current: the same; a target or score that only one frame has is not compared, and `notes` says so.
        out_dir: where the files go; made if absent.
        self_comparison: whether both are samples of the same data; only reported.
        max_rows: rows compared at most, of each frame.
        share_threshold: share of drifted features, in [0, 1], from which the data as a whole has drifted.
        seed: of the sampling.

    Returns:
        What `drift.json` holds. A column is drifted when its `statistic` reaches its `threshold`; one
        that is empty in only one frame is drifted without a statistic.

    Raises:
        InputError: no rows, or a feature column is missing.
    """
    frames = {"reference": reference, "current": current}
    for name, frame in frames.items():
        absent = [column for column in FEATURES if column not in frame]
        if frame.empty or absent:
            what = f"lacks column {', '.join(absent)}" if absent else "has no rows"
            raise InputError(f"the {name} data {what}; drift needs rows with all {len(FEATURES)} features")

    notes = []
    columns = list(FEATURES)
    for column, what in ((TARGET, "target"), (SCORE, "score")):
        having = [name for name, frame in frames.items() if column in frame]
        if len(having) == 2:
            columns.append(column)
        elif having:
            notes.append(f"{what} drift not measured: only the {having[0]} data has `{column}`")

    used = {name: _prepare(frame, columns, max_rows, seed) for name, frame in frames.items()}
    if any(len(frame) > max_rows for frame in frames.values()):
        notes.append(f"compared on a random sample of at most {max_rows:,} rows each (seed {seed})")
    counts = pd.DataFrame({name: frame.count() for name, frame in used.items()})
    full = counts[(counts > 0).all(axis=1)]
    if not any(column in full.index for column in FEATURES):
        raise InputError("no feature has values in both the reference and the current data")
    effective = full.prod(axis=1) / full.sum(axis=1)
    thresholds = {
        column: max(THRESHOLDS[_measure(column)], NOISE[_measure(column)] / float(np.sqrt(effective[column])))
        for column in columns
        if column in effective
    }
    raised = [column for column, value in thresholds.items() if value > THRESHOLDS[_measure(column)]]
    if raised:
        notes.append(
            f"thresholds of {len(raised)} columns raised above the noise of samples this small "
            f"({len(used['reference']):,} and {len(used['current']):,} rows)"
        )

    out_dir.mkdir(parents=True, exist_ok=True)
    statistics = _evidently(used["reference"], used["current"], thresholds, share_threshold, out_dir / "drift.html")
    rows = []
    for column in columns:
        measured = column in statistics
        drifted = statistics[column] >= thresholds[column] if measured else bool(counts.loc[column].any())
        rows.append(
            {
                "column": column,
                "kind": {TARGET: "target", SCORE: "score"}.get(column, "feature"),
                "method": METHODS[_type(column)] if measured else None,
                "statistic": statistics.get(column),
                "threshold": thresholds.get(column),
                "drifted": drifted,
            }
        )
        if not measured:
            empty = " and ".join(name for name in frames if counts.loc[column, name] == 0)
            notes.append(f"`{column}` is empty in the {empty} data")

    features = sum(bool(row["drifted"]) for row in rows if row["kind"] == "feature")
    reasons = [f"{row['kind']} drifted" for row in rows if row["drifted"] and row["kind"] != "feature"]
    if features / len(FEATURES) >= share_threshold:
        reasons.insert(0, f"{features} of {len(FEATURES)} features drifted")
    result = {
        "drifted": bool(reasons),
        "reasons": reasons,
        "rule": f"at least {share_threshold:.0%} of the features, or the target, or the scores drifted",
        "rows": {name: len(frame) for name, frame in frames.items()},
        "rows_used": {name: len(frame) for name, frame in used.items()},
        "self_comparison": self_comparison,
        "share_drifted": features / len(FEATURES),
        "columns": rows,
        "drifted_columns": [row["column"] for row in rows if row["drifted"]],
        "notes": notes,
    }
    (out_dir / "drift.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _type(column: str) -> str:
    return "nominal" if column in NOMINAL else "numeric"


def _measure(column: str) -> str:
    return TARGET if column == TARGET else _type(column)


def _prepare(frame: pd.DataFrame, columns: list[str], max_rows: int, seed: int) -> pd.DataFrame:
    """At most `max_rows` rows, in order; numeric columns as float, nominal as text; missing as NaN, None."""
    if len(frame) > max_rows:
        chosen = np.random.default_rng(seed).choice(len(frame), max_rows, replace=False)
        frame = frame.iloc[np.sort(chosen)]
    prepared = {}
    for column in columns:
        values = frame[column]
        if _type(column) == "numeric":
            prepared[column] = values.astype(float).replace([np.inf, -np.inf], np.nan)
        else:
            # 1, 1.0 and True are one category: text only after they are numbers
            if column not in CATEGORICAL:
                values = values.astype(float).astype("Int64")
            prepared[column] = values.astype("string").astype(object).where(values.notna(), None)
    return pd.DataFrame(prepared).reset_index(drop=True)


def _evidently(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    thresholds: dict[str, float],
    share_threshold: float,
    html: Path,
) -> dict[str, float]:
    """Runs Evidently on the columns of `thresholds`; writes its page; returns each column's distance."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Evidently's telemetry
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports, and of numpy on constant columns
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift
        from evidently.presets import DataDriftPreset

        columns = list(thresholds)
        definition = DataDefinition(
            numerical_columns=[c for c in columns if _type(c) == "numeric"],
            categorical_columns=[c for c in columns if _type(c) == "nominal"],
        )
        metrics: list[Any] = [
            # over the features alone, as in drift.json
            DataDriftPreset(
                columns=[c for c in columns if c in FEATURES],
                drift_share=share_threshold,
                num_method=METHODS["numeric"],
                cat_method=METHODS["nominal"],
                per_column_threshold=thresholds,
            ),
            *(
                ValueDrift(column=c, method=METHODS[_type(c)], threshold=thresholds[c])
                for c in (TARGET, SCORE)
                if c in columns
            ),
        ]
        datasets = (Dataset.from_pandas(frame[columns], definition) for frame in (current, reference))
        snapshot = Report(metrics).run(*datasets)
        snapshot.save_html(str(html))
        return {
            metric["config"]["column"]: float(metric["value"])
            for metric in snapshot.dict()["metrics"]
            if metric["config"]["type"] == "evidently:metric_v2:ValueDrift"
        }


def drift_files(
    reference_path: Path,
    current_path: Path,
    *,
    self_comparison: bool,
    seed: int,
    result_path: Path,
    page_path: Path,
) -> dict[str, Any]:
    """`detect_drift` on two parquet files; with `self_comparison`, on two halves of the reference.

    Returns:
        What `detect_drift` gives; written to `result_path` as JSON, Evidently's page to `page_path`.
    """
    reference = pd.read_parquet(reference_path)
    if self_comparison:
        reference, current = halves(reference, seed)
    else:
        current = pd.read_parquet(current_path)
    with tempfile.TemporaryDirectory() as folder:
        result = detect_drift(reference, current, Path(folder), self_comparison=self_comparison, seed=seed)
        shutil.copyfile(Path(folder) / "drift.html", page_path)
    result_path.write_text(json.dumps(result, indent=1))
    return result
