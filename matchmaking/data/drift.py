"""Has the data moved? Current pairs against reference pairs: each feature, the target, production's scores.

Evidently measures and draws; this module chooses what it measures, and says in `drift.json` what came of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.data.drawn import MAX_ROWS, chosen, draw_files, drawn_from, first_half
from matchmaking.data.schema import CATEGORICAL, FEATURES, TARGET

SCORE = "score"
# `urgency_level` is ordinal: a distance that knows 1 is closer to 2 than to 5 suits it, so it stays numeric
NOMINAL = (*CATEGORICAL, "availability", TARGET)

# numeric: Wasserstein distance over the reference's standard deviation (0.1: a shift by a tenth of it);
# nominal: Jensen-Shannon distance, natural logarithm, in [0, 0.833]. Evidently's defaults above 1,000 rows. Both are
# distances, where more is more drift; Evidently's "ks", "chisquare" and "z" are p-values, where less is.
METHODS = {"numeric": "wasserstein", "nominal": "jensenshannon"}
THRESHOLDS = {"numeric": 0.1, "nominal": 0.1, TARGET: 0.05}  # 0.05: matches from 11.6 % to 16.5 % or 7.5 %
# Two samples of the same data differ too, by a distance that falls as 1/sqrt(n), where n = n1 n2 / (n1 + n2), and grows
# with the number of categories. No threshold is below what chance gives: of a numeric column this many 1/sqrt(n); of a
# nominal one the distance that two samples drawn without replacement from both together reach once in a thousand (a
# permutation test: exact for any number of categories, where the chi-squared limit fails once they are rare).
NUMERIC_NOISE = 3.0
FALSE_ALARMS = 0.001
# the second largest of 1,999 is reached with probability 2/2,000
RESAMPLES = 1_999
# A column of which chance alone gives more than this is too small to tell of: a standard deviation, and half of the
# largest Jensen-Shannon distance there is, sqrt(ln 2).
MOST_NOISE = {"numeric": 1.0, "nominal": 0.5 * float(np.sqrt(np.log(2)))}

# drifted as a whole: half of the features, or the target, or the scores
SHARE_THRESHOLD = 0.5


def halves(reference: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two random halves of `reference`, in its row order: what a comparison looks like where nothing drifted.

    Raises:
        InputError: fewer than two rows.
    """
    first = first_half(len(reference), seed)
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
    rows: dict[str, int] | None = None,
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
        rows: how many there were of each, where the frames are samples of them already.

    Returns:
        What `drift.json` holds. A column is drifted when its `statistic` reaches its `threshold`; one
        that is empty in only one frame is drifted without a statistic; one of which chance alone
        gives more than a drift that matters, and that shows none, has `too_few` rows to tell.

    Raises:
        InputError: no rows, a feature column is missing, or the rows are too few to tell of half of the features.
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
        else:
            why = f"only the {having[0]} data has `{column}`" if having else f"no data has `{column}`"
            if column == SCORE and not having:
                why = "there is no production model to score the pairs"
            notes.append(f"{what} drift not measured: {why}")

    used = {name: _prepare(frame, columns, max_rows, seed) for name, frame in frames.items()}
    counted = rows or {name: len(frame) for name, frame in frames.items()}
    if any(count > max_rows for count in counted.values()):
        notes.append(f"compared on a random sample of at most {max_rows:,} rows each (seed {seed})")
    counts = pd.DataFrame({name: frame.count() for name, frame in used.items()})
    full = counts[(counts > 0).all(axis=1)]
    if not any(column in full.index for column in FEATURES):
        raise InputError("no feature has values in both the reference and the current data")
    effective = full.prod(axis=1) / full.sum(axis=1)
    noise = {c: _noise(used["reference"][c], used["current"][c], _type(c), seed) for c in columns if c in effective}
    thresholds = {column: max(THRESHOLDS[_measure(column)], value) for column, value in noise.items()}
    few = [column for column, value in noise.items() if value > MOST_NOISE[_type(column)]]
    needed = {column: _rows_needed(noise[column], effective[column], used, column) for column in few}
    if sum(column in FEATURES for column in few) > len(FEATURES) / 2:
        raise InputError(
            f"{len(used['current']):,} current against {len(used['reference']):,} reference rows are too few to tell "
            f"whether anything has drifted; it takes about {max(needed.values()):,} rows of each"
        )
    raised = [column for column, value in thresholds.items() if value > THRESHOLDS[_measure(column)]]
    if raised:
        notes.append(
            f"thresholds of {len(raised)} columns raised above the noise of samples this small "
            f"({len(used['reference']):,} and {len(used['current']):,} rows)"
        )

    out_dir.mkdir(parents=True, exist_ok=True)
    statistics = _evidently(used["reference"], used["current"], thresholds, share_threshold, out_dir / "drift.html")
    found = []
    for column in columns:
        measured = column in statistics
        drifted = statistics[column] >= thresholds[column] if measured else bool(counts.loc[column].any())
        too_few = column in few and not drifted
        found.append(
            {
                "column": column,
                "kind": {TARGET: "target", SCORE: "score"}.get(column, "feature"),
                "method": METHODS[_type(column)] if measured else None,
                "statistic": statistics.get(column),
                "threshold": thresholds.get(column),
                "drifted": drifted,
                "too_few": too_few,
            }
        )
        if too_few:
            notes.append(f"`{column}` has too few rows to tell; it takes about {needed[column]:,} of each")
        if not measured:
            empty = " and ".join(name for name in frames if counts.loc[column, name] == 0)
            notes.append(f"`{column}` is empty in the {empty} data")

    features = sum(bool(row["drifted"]) for row in found if row["kind"] == "feature")
    reasons = [f"{row['kind']} drifted" for row in found if row["drifted"] and row["kind"] != "feature"]
    if features / len(FEATURES) >= share_threshold:
        reasons.insert(0, f"{features} of {len(FEATURES)} features drifted")
    result = {
        "drifted": bool(reasons),
        "reasons": reasons,
        "rule": f"at least {share_threshold:.0%} of the features, or the target, or the scores drifted",
        "rows": counted,
        "rows_used": {name: len(frame) for name, frame in used.items()},
        "self_comparison": self_comparison,
        "share_drifted": features / len(FEATURES),
        "columns": found,
        "drifted_columns": [row["column"] for row in found if row["drifted"]],
        "notes": notes,
    }
    (out_dir / "drift.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _type(column: str) -> str:
    return "nominal" if column in NOMINAL else "numeric"


def _measure(column: str) -> str:
    return TARGET if column == TARGET else _type(column)


def _noise(reference: pd.Series, current: pd.Series, kind: str, seed: int) -> float:
    """The distance between two samples of the same data, this large, that chance exceeds once in `1 / FALSE_ALARMS`."""
    rows = reference.count(), current.count()
    if kind == "numeric":
        return NUMERIC_NOISE / float(np.sqrt(rows[0] * rows[1] / sum(rows)))
    return permuted_noise(pd.concat([reference, current]).value_counts().sort_index().to_numpy(), rows[1], seed)


def permuted_noise(counts: np.ndarray, rows: int, seed: int) -> float:
    """The distance of a nominal column that chance reaches with probability `FALSE_ALARMS`.

    Args:
        counts: of each category in both samples together, int of shape (categories,).
        rows: of one of the samples.
        seed: of the drawing.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_hypergeometric(counts, rows, size=RESAMPLES, method="marginals")
    distances = jensen_shannon((counts - drawn) / (counts.sum() - rows), drawn / rows)
    return float(np.partition(distances, -2)[-2])


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The Jensen-Shannon distance with the natural logarithm, in [0, 0.833] (Endres & Schindelin, 2003).

    Args:
        p: probabilities, shape (..., categories).
        q: the same.

    Returns:
        Shape (...).
    """
    from scipy.special import rel_entr

    middle = (p + q) / 2
    return np.sqrt(np.maximum((rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=-1) / 2, 0))


def _rows_needed(noise: float, effective: float, used: dict[str, pd.DataFrame], column: str) -> int:
    """About how many rows of each frame make a column's noise bearable, rounded up to tens.

    The noise falls as 1/sqrt(n); where it is as large as a distance can be it says too little, and the limit for
    many rows, by which 8 n times the squared distance is chi-squared, says how many at least.
    """
    from scipy.stats import chi2

    kind = _type(column)
    needed = effective * (noise / MOST_NOISE[kind]) ** 2
    if kind == "nominal":
        categories = pd.concat([frame[column] for frame in used.values()]).nunique()
        needed = max(needed, chi2.ppf(1 - FALSE_ALARMS, max(categories - 1, 1)) / (8 * MOST_NOISE[kind] ** 2))
    # n = n1 n2 / (n1 + n2) of two equal samples is half of one
    return int(np.ceil(2 * needed / 10) * 10)


def _prepare(frame: pd.DataFrame, columns: list[str], max_rows: int, seed: int) -> pd.DataFrame:
    """At most `max_rows` rows, in order; numeric columns as float, nominal as text; missing as NaN, None."""
    frame = frame.iloc[chosen(len(frame), max_rows, seed)]
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
        # Evidently writes categories raw into a script of its page
        frames = (frame[columns].map(_escaped) for frame in (current, reference))
        datasets = (Dataset.from_pandas(frame, definition) for frame in frames)
        snapshot = Report(metrics).run(*datasets)
        snapshot.save_html(str(html))
        # Evidently sums over a set of categories, whose order, and so the last digit, differs from process to process
        return {
            metric["config"]["column"]: round(float(metric["value"]), 12)
            for metric in snapshot.dict()["metrics"]
            if metric["config"]["type"] == "evidently:metric_v2:ValueDrift"
        }


def _escaped(value: Any) -> Any:
    """A category as HTML text (its charts decode it), so that different ones stay different; a number as it is."""
    return escape(value) if isinstance(value, str) else value


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

    They hold all pairs, or those that `draw_files` draws of them.

    Returns:
        What `detect_drift` gives; written to `result_path` as JSON, Evidently's page to `page_path`.
    """
    used = draw_files(reference_path, current_path, self_comparison=self_comparison, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        result = detect_drift(
            used["reference"].to_pandas(),
            used["current"].to_pandas(),
            Path(folder),
            self_comparison=self_comparison,
            seed=seed,
            rows={name: drawn_from(pairs) for name, pairs in used.items()},
        )
        shutil.copyfile(Path(folder) / "drift.html", page_path)
    result_path.write_text(json.dumps(result, indent=1))
    return result
