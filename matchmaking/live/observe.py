"""How production does on the pairs of now: every window measured as far as outcomes have come, and estimated.

An estimate is made *as of its window's end*, from the outcomes that had come by then, and stays: so it can be held
against what was measured later. It is a function of the logs; what an earlier run has estimated of the same pairs is
taken over, as that knew production's model of its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pandas as pd

from matchmaking.base.errors import InputError
from matchmaking.base.records import read_record
from matchmaking.data.read import read_pairs
from matchmaking.data.schema import CATEGORICAL, FEATURES, SLICES, TARGET
from matchmaking.live import record
from matchmaking.live.collect import ASKED, LABELLED, OUTCOMES, PREDICTIONS, Asked, read_times
from matchmaking.live.delay import Delay, estimate_delay
from matchmaking.live.estimate import METRICS, Estimate, Floats, Minimum, density_ratio, estimate
from matchmaking.live.logs import Logs, from_labelled, read_logs
from matchmaking.live.record import DelayRecord, Live, Look, Newest, Past, Promoted
from matchmaking.live.windows import Period, end_of, measure, starts

REFERENCE_DAYS = 180
# more pairs than these tell nothing more: of a reference or a window as many are drawn
MOST_PAIRS = 60_000
# and of those that tell the label delay as of a window's end
MOST_DELAYS = 40_000
# a density-ratio classifier that does no better than this tells nothing apart, and its weights are noise
NO_SHIFT = 0.55
NEAR = 0.02
SAY_SECONDS = 5.0

Score = Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class Serving:
    """Production's model of now.

    Attributes:
        model: the sha256 of its .h5.
        score: its probabilities, shape (rows,), of pairs given by their features.
    """

    model: str
    score: Score


def observe(
    logs: Logs,
    period: Period,
    now: pd.Timestamp,
    *,
    serving: Serving | None = None,
    promoted: Promoted | None = None,
    source: str = "",
    earlier: pd.DataFrame | None = None,
    slices: Sequence[str] = SLICES,
    minimum: Minimum | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> tuple[Live, pd.DataFrame]:
    """The whole series of windows, and what is to be known beside it.

    Args:
        logs: the joined logs.
        period: of the windows.
        now: the time of looking; what is later hasn't happened yet.
        serving: production's model of now, which is asked about the pairs that another one scored.
        promoted: the models that have been production.
        source: what the logs are called.
        earlier: the windows of the run before; None for none.
        slices: columns to break windows down by.
        minimum: below what estimates are withheld.
        seed: of everything that is drawn.
        say: told how far it has come.
    """
    frame = logs.frame
    # of a labelled file the outcomes' times aren't known, and then there is no delay to wait for
    timed = "outcomes" in logs.accounts or bool(frame["outcome_time"].notna().any()) or not _labelled(frame)
    delay = estimate_delay(frame, now) if timed else None
    say(f"{len(frame):,} pairs; {_in_words(delay)}")
    measured = measure(frame, period, now, delay=delay, slices=slices, seed=seed)
    found = record.typed(pd.DataFrame())
    if len(measured):
        models = _models(frame, period, now)
        measured["model"] = measured["start"].map(models)
        made = _Estimates(frame, period, now, serving, earlier, slices, minimum or Minimum(), seed, timed).make(say)
        found = record.typed(measured.merge(made, on=record.KEY, how="left", validate="one_to_one"))
    windows, carried = record.carry_over(found, earlier)
    live = Live(
        period=period,
        source=source,
        now=now.to_pydatetime(),
        delay=_delay_record(delay),
        logs=logs.accounts,
        findings=record.labels(logs.findings),
        newest=newest(windows),
        past=compare_past(windows),
        promoted=promoted or Promoted(),
        windows=windows["start"].nunique(),
        carried=len(carried),
        notes=_notes(windows, delay, serving, carried),
    )
    return live, windows


def newest(windows: pd.DataFrame) -> Newest:
    """The newest window that counts as measured, and the newest with an estimate."""
    whole = windows[windows["slice"] == ""]
    columns = {"measured": ("value", "low", "high"), "estimated": ("estimate", "estimate_low", "estimate_high")}
    given = {"measured": whole["measured"] & whole["value"].notna(), "estimated": whole["estimate"].notna()}
    looks: dict[str, Look | None] = {}
    for kind, names in columns.items():
        rows = whole[given[kind]]
        rows = rows[rows["start"] == rows["start"].max()]
        looks[kind] = _look(rows, names) if len(rows) else None
    return Newest(**looks)


def _look(rows: pd.DataFrame, names: tuple[str, str, str]) -> Look:
    first = rows.iloc[0]
    return Look(
        start=first["start"].to_pydatetime(),
        end=first["end"].to_pydatetime(),
        model=first["model"],
        rows=int(first["rows"]),
        labelled=int(first["labelled"]),
        completeness=float(first["completeness"]),
        metrics={
            row["metric"]: dict(zip(("value", "low", "high"), map(float, row[list(names)]), strict=True))
            for _, row in rows.iterrows()
        },
    )


def compare_past(windows: pd.DataFrame, tolerance: float = NEAR) -> list[Past]:
    """How estimates compare with what was measured later, by metric, over the windows that have both."""
    both = windows[
        (windows["slice"] == "") & windows["measured"] & windows["value"].notna() & windows["estimate"].notna()
    ]
    found = []
    for metric in METRICS:
        rows = both[both["metric"] == metric]
        if not len(rows):
            continue
        error = rows["estimate"] - rows["value"]
        covered = rows["value"].between(rows["estimate_low"], rows["estimate_high"])
        found.append(
            Past(
                metric=metric,
                windows=len(rows),
                mean_error=float(error.mean()),
                mean_absolute_error=float(error.abs().mean()),
                within=float((error.abs() <= tolerance).mean()),
                covered=float(covered.mean()),
                tolerance=tolerance,
            )
        )
    return found


class _Estimates:
    """The estimates of all windows; holds what they share, so that nothing is scored or sorted twice."""

    def __init__(
        self,
        frame: pd.DataFrame,
        period: Period,
        now: pd.Timestamp,
        serving: Serving | None,
        earlier: pd.DataFrame | None,
        slices: Sequence[str],
        minimum: Minimum,
        seed: int,
        timed: bool,
    ) -> None:
        # in order of time, as `logs` gives it, so that a span of time is a span of rows
        seen = frame[frame["time"].notna() & (frame["time"] <= now)].reset_index(drop=True)
        # rows are taken and compared some thousand times, and codes are quicker than texts
        self.frame = seen.astype(dict.fromkeys(CATEGORICAL, "category"))
        self.times = _nanoseconds(self.frame["time"])
        self.period, self.now, self.serving, self.timed = period, now, serving, timed
        self.slices, self.minimum, self.seed = slices, minimum, seed
        self.earlier = _by_start(earlier)
        # the model's of now, for the pairs that another scored; NaN where it hasn't been asked
        self.rescored = np.full(len(self.frame), np.nan)

    def make(self, say: Callable[[str], None]) -> pd.DataFrame:
        """A row for each window, slice and metric: `record.KEY` and the columns of estimates."""
        windows = sorted(pd.Series(starts(self.frame["time"], self.period)).unique())
        found, said, reused = [], time.monotonic(), 0
        for number, start in enumerate(windows, start=1):
            kept = self._known(start)
            reused += kept is not None
            found.append(self._window(start) if kept is None else kept)
            if time.monotonic() - said > SAY_SECONDS or number == len(windows):
                said = time.monotonic()
                say(f"estimated {number} of {len(windows)} windows, {reused} of them by an earlier run")
        return pd.concat(found, ignore_index=True)

    def _rows(self, first: pd.Timestamp, last: pd.Timestamp) -> slice:
        """The rows from a time on, until another, which isn't in it."""
        low, high = np.searchsorted(self.times, _nanoseconds(pd.Series([first, last])))
        return slice(int(low), int(high))

    def _known(self, start: pd.Timestamp) -> pd.DataFrame | None:
        """What an earlier run has estimated when the window had ended, of the same pairs."""
        old = self.earlier.get(start)
        if old is None or old["estimate"].isna().all():
            return None
        end = end_of(start, self.period)
        part = self.frame.iloc[self._rows(start, end)]
        whole = old[old["slice"] == ""].iloc[0]
        same = whole["rows"] == len(part) and whole["model"] == _most(part["model"]) and whole["estimated_at"] == end
        return old[[*record.KEY, *_ESTIMATED]] if same else None

    def _window(self, start: pd.Timestamp) -> pd.DataFrame:
        end = end_of(start, self.period)
        at = min(end, self.now)
        # up to `now` with it: the frame has none that is later
        part = self.frame.iloc[self._rows(start, end)]
        model = _most(part["model"])
        # two models' scores don't go together: those of the one with most pairs tell
        part = _draw(part[part["model"] == model], self.seed)
        reference, why = self._reference(model, at)
        whole, ratio = self._whole(reference, part, why)
        found = [_estimate_rows(start, "", "", at, whole)]
        for column in self.slices:
            window_groups = part.groupby(column, observed=True).indices
            groups = reference.groupby(column, observed=True).indices
            for value, rows in sorted(window_groups.items()):
                of_reference = np.asarray(groups.get(value, []), dtype=int)
                one = self._slice(reference, part, of_reference, np.asarray(rows), whole, ratio)
                found.append(_estimate_rows(start, column, str(value), at, one))
        return pd.concat(found, ignore_index=True)

    def _whole(
        self, reference: pd.DataFrame, part: pd.DataFrame, why: str
    ) -> tuple[Estimate, tuple[Floats, float] | None]:
        if why:
            return Estimate("pape", len(part), 0, 0, 0, None, {}, why), None
        enough = len(part) >= self.minimum.window_rows and reference[TARGET].sum() >= self.minimum.effective_positives
        ratio = density_ratio(reference, part, seed=self.seed) if enough else None
        found = estimate(reference, part, "pape", minimum=self.minimum, ratio=ratio, seed=self.seed)
        if found.withheld and ratio and ratio[1] < NO_SHIFT:
            # there is nothing that weights could make up for
            plain = estimate(reference, part, "cbpe", minimum=self.minimum, seed=self.seed)
            if not plain.withheld:
                return replace(plain, shift=ratio[1]), (np.ones(len(reference)), ratio[1])
        return found, ratio

    def _slice(
        self,
        reference: pd.DataFrame,
        part: pd.DataFrame,
        of_reference: np.ndarray,
        of_part: np.ndarray,
        whole: Estimate,
        ratio: tuple[Floats, float] | None,
    ) -> Estimate:
        if ratio is None:
            return replace(whole, rows=len(of_part), effective_rows=0, effective_positives=0, metrics={})
        weight = ratio[0][of_reference]
        mean = float(weight.mean()) if len(weight) else 1.0
        return estimate(
            reference.iloc[of_reference],
            part.iloc[of_part],
            whole.method,
            minimum=self.minimum,
            ratio=(weight / (mean or 1.0), ratio[1]),
            resamples=60,
            seed=self.seed,
        )

    def _reference(self, model: str, at: pd.Timestamp) -> tuple[pd.DataFrame, str]:
        """Pairs whose outcomes were all there at that time, scored by a model; or why there are none."""
        nothing = self.frame.iloc[:0]
        if not self.timed:
            return nothing, "it isn't known when outcomes came"
        seen = self._rows(pd.Timestamp(0, tz="UTC"), at)
        step = max(1, (seen.stop - seen.start) // MOST_DELAYS)
        delay = estimate_delay(self.frame.iloc[seen][::step], at)
        if delay.mature_days is None:
            return nothing, delay.reason
        last = at - pd.Timedelta(days=delay.mature_days)
        span = self._rows(last - pd.Timedelta(days=REFERENCE_DAYS), last)
        rows = self.frame.iloc[span]
        rows = rows[(rows[TARGET].notna() & (rows["outcome_time"] <= at)).to_numpy()]
        if self.serving is None or model != self.serving.model:
            own = rows[rows["model"] == model]
            why = "the pairs old enough were scored by other models" if len(rows) and not len(own) else ""
            return _draw(own, self.seed), why
        rows = _draw(rows, self.seed)
        other = (rows["model"] != model).to_numpy()
        if other.any():
            places = rows.index.to_numpy()[other]
            new = places[np.isnan(self.rescored[places])]
            if len(new):
                texts = self.frame.loc[new, list(FEATURES)].astype(dict.fromkeys(CATEGORICAL, object))
                self.rescored[new] = self.serving.score(texts)
            probability = rows["probability"].to_numpy().copy()
            probability[other] = self.rescored[places]
            rows = rows.assign(probability=probability)
        return rows, ""


_ESTIMATED = [
    *("estimate", "estimate_low", "estimate_high", "estimate_withheld"),
    *("effective_rows", "effective_positives", "method", "estimated_at"),
]


def _estimate_rows(start: pd.Timestamp, column: str, value_of: str, at: pd.Timestamp, found: Estimate) -> pd.DataFrame:
    none = {"value": np.nan, "low": np.nan, "high": np.nan}
    rows = []
    for metric in METRICS:
        values = found.metrics.get(metric, none)
        rows.append(
            {
                **dict(zip(record.KEY, (start, column, value_of, metric), strict=True)),
                "estimate": values["value"],
                "estimate_low": values["low"],
                "estimate_high": values["high"],
                "estimate_withheld": found.withheld or "",
                "effective_rows": found.effective_rows,
                "effective_positives": found.effective_positives,
                "method": "" if found.withheld else found.method,
                "estimated_at": at,
            }
        )
    return pd.DataFrame(rows)


def _by_start(earlier: pd.DataFrame | None) -> dict[pd.Timestamp, pd.DataFrame]:
    return {} if earlier is None else {pd.Timestamp(str(s)): rows for s, rows in earlier.groupby("start")}


def _nanoseconds(times: pd.Series) -> np.ndarray:
    """Since 1970, as whole numbers."""
    return pd.DatetimeIndex(times).as_unit("ns").asi8


def _draw(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """At most `MOST_PAIRS` of them, in the order that they have."""
    if len(rows) <= MOST_PAIRS:
        return rows
    return rows.iloc[np.sort(np.random.default_rng(seed).choice(len(rows), MOST_PAIRS, replace=False))]


def _most(models: pd.Series) -> str:
    """The model with most pairs, of several the first in the alphabet."""
    counts = models.value_counts()
    return str(min(counts[counts == counts.max()].index)) if len(counts) else ""


def _models(frame: pd.DataFrame, period: Period, now: pd.Timestamp) -> dict[pd.Timestamp, str]:
    seen = frame[frame["time"].notna() & (frame["time"] <= now)]
    window = pd.Series(starts(seen["time"], period), index=seen.index)
    return {
        pd.Timestamp(str(start)): _most(seen.loc[rows, "model"])
        for start, rows in window.groupby(window).groups.items()
    }


def _labelled(frame: pd.DataFrame) -> bool:
    return bool(len(frame) and frame[TARGET].notna().any())


def _delay_record(delay: Delay | None) -> DelayRecord:
    if delay is None:
        return DelayRecord(ever=1.0, reason="the outcomes' times aren't known")
    half = np.searchsorted(delay.arrived, delay.ever / 2) if delay.ever else len(delay.days)
    median = float(delay.days[half]) if half < len(delay.days) else None
    return DelayRecord(mature_days=delay.mature_days, median_days=median, ever=delay.ever, reason=delay.reason)


def _in_words(delay: Delay | None) -> str:
    if delay is None:
        return "the outcomes' times aren't known"
    if delay.mature_days is None:
        return delay.reason
    return f"outcomes are complete after {delay.mature_days:.0f} days, {1 - delay.ever:.0%} never come"


def _notes(windows: pd.DataFrame, delay: Delay | None, serving: Serving | None, carried: Sequence[str]) -> list[str]:
    """What people should know of the series, in sentences."""
    notes = []
    if delay is not None and delay.mature_days is None:
        notes.append(f"No window counts as measured: {delay.reason}.")
    whole = windows[(windows["slice"] == "") & (windows["metric"] == METRICS[0])]
    missing = whole[whole["estimate"].isna()]
    if len(missing):
        newest_first = missing.iloc[::-1]
        reason = next((one for one in newest_first["estimate_withheld"] if one), "")
        notes.append(
            f"{len(missing)} of {len(whole)} windows have no estimate"
            + (f", the newest as {reason}." if reason else ".")
        )
    if carried:
        notes.append(f"{len(carried)} windows have left the logs and are kept from earlier runs.")
    if len(whole) > len(missing):
        notes.append(
            "Estimates see what features and probabilities show. Where the same pairs come to meet other outcomes "
            "(concept drift), they stay where they were, and only the measured windows tell."
        )
    return notes


def observe_files(
    folder: Path,
    bundle: Path,
    out: Path,
    *,
    run_id: str,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Live:
    """Reads a run's logs, and writes its record.

    Args:
        folder: what `collect` left: the logs, or a labelled dataset, and what was asked.
        bundle: the run's copy of production; may be empty.
        out: becomes the folder with `live.json` and `windows.parquet`.
        run_id: the MLflow run: what it has recorded itself, before it was killed, doesn't count.
        seed: of everything that is drawn.
        say: told how far it has come.

    Raises:
        InputError: the logs can't be read, or a labelled dataset comes without a model to score it.
        TrackingError: MLflow cannot be reached.
    """
    from matchmaking.model import production

    asked = read_record(Asked, (folder / ASKED).read_bytes(), ASKED)
    if asked.period not in get_args(Period):
        raise InputError(f"period is {', '.join(get_args(Period))}; not '{asked.period}'")
    now = pd.Timestamp(asked.timestamp)
    serving = None
    if production.present(bundle):
        from matchmaking.model.score import score

        serving = Serving(production.hashes(bundle)[production.MODEL], lambda pairs: score(pairs, bundle))
    known = asked.promoted
    promoted = Promoted(known=known is not None, models=known or [], serving=serving.model if serving else "")
    logs = _read(folder, asked, now, serving)
    found = record.newest_record(asked.period, asked.source, before=run_id)
    earlier = found.windows if found else None
    live, windows = observe(
        logs,
        cast(Period, asked.period),
        now,
        serving=serving,
        promoted=promoted,
        source=asked.source,
        earlier=earlier,
        seed=seed,
        say=say,
    )
    record.write_record(out, live, windows)
    return live


def _empty() -> pd.DataFrame:
    """The frame of a log without a pair."""
    times = pd.Series([], dtype="datetime64[ns, UTC]")
    others = pd.DataFrame(columns=["pair_id", "model", *FEATURES, "probability", TARGET])
    return others.assign(time=times, outcome_time=times)


def _read(folder: Path, asked: Asked, now: pd.Timestamp, serving: Serving | None) -> Logs:
    """The joined logs; of a labelled dataset what they would be."""
    if asked.data:
        if serving is None:
            raise InputError("a labelled dataset has no probabilities: give the folder of the production model")
        pairs, _ = read_pairs(folder / LABELLED, source=asked.data)
        return from_labelled(pairs, serving.score(pairs), serving.model, now, read_times(folder / LABELLED))
    outcomes = folder / OUTCOMES
    if not (folder / PREDICTIONS).exists():
        return Logs(_empty(), pd.DataFrame(), [], {"predictions": {"read": 0}})
    return read_logs(folder / PREDICTIONS, outcomes if outcomes.exists() else None, now, asked.promoted)
