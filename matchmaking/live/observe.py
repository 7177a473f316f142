"""How production does on the pairs of now: every window measured as far as outcomes have come, and estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pandas as pd

from matchmaking import tracking
from matchmaking.base.errors import InputError
from matchmaking.base.records import read_record
from matchmaking.data.read import read_pairs
from matchmaking.data.schema import FEATURES, SLICES, TARGET
from matchmaking.evidence.policy import installed_policy
from matchmaking.live import record
from matchmaking.live.alerts import Condition
from matchmaking.live.as_of import Estimates, Serving, most
from matchmaking.live.collect import ASKED, LABELLED, OUTCOMES, PREDICTIONS, Asked, read_times
from matchmaking.live.conditions import performance
from matchmaking.live.delay import Delay, estimate_delay
from matchmaking.live.estimate import METRICS, Minimum
from matchmaking.live.logs import Logs, from_labelled, read_logs
from matchmaking.live.record import DelayRecord, Live, Look, Newest, Past, Promoted
from matchmaking.live.windows import Period, measure, starts

NEAR = 0.02
# share of a window's pairs that its estimate knows nothing of, from which on that is told
UNSUPPORTED = 0.01


def observe(
    logs: Logs,
    period: Period,
    now: pd.Timestamp,
    *,
    serving: Serving | None = None,
    promoted: Promoted | None = None,
    source: str = "",
    outcomes: str = "",
    earlier: pd.DataFrame | None = None,
    slices: Sequence[str] = SLICES,
    minimum: Minimum | None = None,
    watch: Callable[[Delay], Iterable[Condition]] | None = None,
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
        source: what the prediction log, or the labelled dataset, is called.
        outcomes: what the outcome log is called.
        earlier: the windows of the run before; None for none.
        slices: columns to break windows down by.
        minimum: below what estimates are withheld.
        watch: the alert rule, given the label delay; None for none.
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
        made = Estimates(frame, period, now, serving, earlier, slices, minimum or Minimum(), seed, timed).make(say)
        found = record.typed(measured.merge(made, on=record.KEY, how="left", validate="one_to_one"))
    windows, carried = record.carry_over(found, earlier)
    live = Live(
        period=period,
        source=source,
        outcomes=outcomes,
        now=now.to_pydatetime(),
        delay=_delay_record(delay),
        logs=logs.accounts,
        findings=record.labels(logs.findings),
        newest=newest(windows),
        past=compare_past(windows),
        conditions=[asdict(one) for one in watch(delay)] if watch and delay and len(frame) else [],
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


def _models(frame: pd.DataFrame, period: Period, now: pd.Timestamp) -> dict[pd.Timestamp, str]:
    seen = frame[frame["time"].notna() & (frame["time"] <= now)]
    window = pd.Series(starts(seen["time"], period), index=seen.index)
    return {
        pd.Timestamp(str(start)): most(seen.loc[rows, "model"]) for start, rows in window.groupby(window).groups.items()
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
    unknown = whole[whole["estimate"].notna() & (whole["unsupported"] >= UNSUPPORTED)]
    if len(unknown):
        one = unknown.iloc[-1]
        notes.append(
            f"In {len(unknown)} of {len(whole)} windows, of them last that of {one['start']:%Y-%m-%d} "
            f"({one['unsupported']:.0%}), pairs have a category of which no outcome was known when the window was "
            f"estimated: what is said of those pairs is a guess."
        )
    if carried:
        first, last = carried[0][:10], carried[-1][:10]
        notes.append(
            f"{len(carried)} windows have left the logs, or have fewer pairs or outcomes there than before, and are "
            f"kept as earlier runs found them: {first if first == last else f'{first} to {last}'}."
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
    policy, link = installed_policy().alerts, tracking.links(run_id)[0].removeprefix("MLflow run ")
    found = record.newest_record(asked.series, before=run_id)
    earlier = found.windows if found else None
    live, windows = observe(
        logs,
        cast(Period, asked.period),
        now,
        serving=serving,
        promoted=promoted,
        source=asked.source,
        outcomes=asked.outcomes,
        earlier=earlier,
        watch=lambda delay: performance(logs.frame, now, delay, policy, link),
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
