"""The prediction log and the outcome log, joined: each pair once, and everything that was odd about them by name.

The format is that of `matchmaking.live.parts`. Nothing is lost without a word, nothing counted twice: `Logs.accounts`
adds up to the records that were read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.base.redact import redact
from matchmaking.data.schema import FEATURES, TARGET
from matchmaking.live.parts import COLUMNS, Finding, finding, read_parts, utc

# parts that are brought here together: most are small, and waiting for answers is most of what each takes
AT_ONCE = 8


class NoLogError(InputError):
    """There is nothing where a log should be: no file, no part. Nobody may have written one yet."""


@dataclass(frozen=True)
class Logs:
    """Both logs as one frame.

    Attributes:
        frame: a row for each pair, in order of time: `pair_id`, `time`, `model`, the features, `probability`, `match`
            (Int8, missing where no outcome has come) and `outcome_time` (NaT there). Times are datetime64[ns, UTC].
        orphans: outcomes whose prediction isn't there (yet): `pair_id`, `time`, `match`.
        findings: what was odd, the most frequent first.
        accounts: records by what became of them, for each log: `read` is the sum of the others.
    """

    frame: pd.DataFrame
    orphans: pd.DataFrame
    findings: list[Finding]
    accounts: dict[str, dict[str, int]]


def fetch_log(uri: str, target: Path, wanted: Callable[[str], bool] | None = None) -> Path:
    """Copies a log here, a file or a folder of parts, and gives the copy's path.

    Args:
        uri: the file or folder.
        target: the folder that gets the copy.
        wanted: which parts, by their names in the folder; all, if left out.

    Raises:
        NoLogError: there is no such log.
        InputError: it may not be read, a part that was there is gone, or two are the same file on this disk.
        StorageError: the store can't be reached, even after retries.
    """
    # what is on the web is a file: nobody lists it; and what follows its name isn't part of it
    web = uri.startswith(("https://", "http://"))
    names = [] if web else storage.list_names(uri)
    if not names:
        plain = uri.partition("?")[0] if web else uri
        file = target / (plain.rstrip("/").rpartition("/")[2] or "log")
        target.mkdir(parents=True, exist_ok=True)
        if not storage.download_if_there(uri, file):
            is_empty = not web and storage.is_folder(uri)
            said = "has nothing in it" if is_empty else "doesn't exist"
            raise NoLogError(f"{redact(uri)} {said}; give the path of a log's file, or of its folder of parts")
        return file
    target.mkdir(parents=True, exist_ok=True)
    names = [name for name in names if not wanted or wanted(name)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tasks = [pool.submit(storage.download_folder, uri, [name], target) for name in names]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    # each by itself has nothing beside it
    storage.check_apart(uri, names, target)
    return target


def read_logs(
    predictions: Path, outcomes: Path | None, now: pd.Timestamp, promoted: Collection[str] | None = None
) -> Logs:
    """Reads and joins both logs.

    What counts where records contradict each other doesn't depend on the order of parts:

    - A prediction that is there twice, with the same content, counts once (`duplicate-prediction`); with other content
      (`conflicting-prediction`) the earliest does.
    - An outcome that is there twice with the same content counts once (`duplicate-outcome`); the same match at another
      time (`repeated-outcome`) counts at the earliest; where the match differs (`corrected-outcome`) the latest word
      does, and where both were said at the same time (`contradictory-outcome`) none.
    - An outcome before its prediction (`outcome-before-prediction`) counts as an outcome, not as a delay.
    - What is dated after `now` (`in-the-future`) stays in the frame; windows and delay leave it out.

    Args:
        predictions: the prediction log, a file or a folder.
        outcomes: the outcome log; None where there is none yet.
        now: the time of looking.
        promoted: sha256 of every model that has been production; others are named (`model-not-promoted`), and stay.

    Raises:
        InputError: see `parts.read_parts`.
    """
    read, found, count = read_parts(predictions, "prediction")
    kept, odd, accounts = _unique_predictions(read)
    findings, books = found + odd, {"predictions": {**accounts, "invalid": count - len(read), "read": count}}
    answers = pd.DataFrame({"pair_id": [], "time": pd.DatetimeIndex([], tz="UTC"), TARGET: []}).astype(
        {"pair_id": object}
    )
    if outcomes is not None:
        read, found, count = read_parts(outcomes, "outcome")
        answers, odd, accounts = _unique_outcomes(read)
        findings += found + odd
        books["outcomes"] = {**accounts, "invalid": count - len(read), "read": count}
    there = answers["pair_id"].isin(kept["pair_id"])
    orphans = answers[~there].reset_index(drop=True)
    findings += finding("outcome-without-prediction", orphans["pair_id"].tolist())
    if "outcomes" in books:
        books["outcomes"] |= {"used": int(there.sum()), "without prediction": len(orphans)}
    columns = answers[there].rename(columns={"time": "outcome_time"}).astype({TARGET: "Int8"})
    frame = kept.merge(columns, on="pair_id", how="left", validate="one_to_one")
    frame["outcome_time"] = frame["outcome_time"].astype("datetime64[ns, UTC]")
    frame = frame.sort_values(["time", "pair_id"], ignore_index=True)
    findings += _clocks(frame, orphans, now)
    if promoted is not None:
        unknown = frame.loc[~frame["model"].isin(list(promoted)), "model"].value_counts()
        shown = [f"{model}: {rows:,} predictions" for model, rows in unknown.items()]
        findings += finding("model-not-promoted", shown, int(unknown.sum()))
    return Logs(frame, orphans, sorted(findings, key=lambda one: (-one.count, one.code)), books)


def from_labelled(
    pairs: pd.DataFrame, probability: np.ndarray, model: str, now: pd.Timestamp, time: pd.Series | None = None
) -> Logs:
    """A labelled dataset, as `schema.read_pairs` gives it, as if it were both logs.

    Every row counts: without ids, two equal rows are two pairs. The delay of its outcomes isn't known.

    Args:
        pairs: the features and `match`.
        probability: the model's, shape (rows,).
        model: the sha256 of its .h5.
        now: the time of looking; the time of every pair where there is no other.
        time: when each pair was shown, as text or timestamps, without a zone in UTC; None where it isn't known.

    Raises:
        InputError: a time is none, or the numbers of rows differ.
    """
    if len(probability) != len(pairs) or (time is not None and len(time) != len(pairs)):
        raise InputError(f"{len(pairs)} labelled pairs don't go with {len(probability)} probabilities, or their times")
    when = pd.Series([now] * len(pairs))
    if time is not None:
        when, _ = utc(time.reset_index(drop=True))
        if when.isna().any():
            rows = ", ".join(str(row + 1) for row in np.flatnonzero(when.isna())[:5])
            raise InputError(f"{int(when.isna().sum())} labelled pairs have no time that can be read: rows {rows}")
    frame = pairs[list(FEATURES)].reset_index(drop=True)
    frame.insert(0, "pair_id", [f"row-{row}" for row in range(1, len(pairs) + 1)])
    frame.insert(1, "time", when.astype("datetime64[ns, UTC]"))
    frame.insert(2, "model", model)
    frame["probability"] = np.asarray(probability, dtype=float)
    frame[TARGET] = pairs[TARGET].astype("Int8").to_numpy()
    frame["outcome_time"] = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[ns, UTC]")
    frame = frame.sort_values("time", kind="stable", ignore_index=True)
    findings = finding("no-time", [f"{len(pairs):,} pairs"], len(pairs)) if time is None else []
    findings += _clocks(frame, frame.iloc[:0], now)
    return Logs(
        frame,
        frame.iloc[:0][["pair_id", "time", TARGET]],
        findings,
        {"pairs": {"used": len(pairs), "read": len(pairs)}},
    )


def _unique_predictions(read: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding], dict[str, int]]:
    columns = list(COLUMNS["prediction"])
    again = read["pair_id"].duplicated(keep=False)
    first = read[again].sort_values(["pair_id", "time", *columns[2:]])
    same = first.duplicated(columns)
    different = first[~same]
    other = different["pair_id"].duplicated()
    findings = finding("duplicate-prediction", _named(first[same]))
    findings += finding("conflicting-prediction", _named(different[other]))
    kept = pd.concat([read[~again], different[~other]])[columns]
    counts = {"used": len(kept), "duplicate": int(same.sum()), "conflicting": int(other.sum())}
    return kept.reset_index(drop=True), findings, counts


def _unique_outcomes(read: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding], dict[str, int]]:
    columns = list(COLUMNS["outcome"])
    again = read["pair_id"].duplicated(keep=False)
    first = read[again].sort_values(["pair_id", "time", TARGET])
    same = first.duplicated(columns)
    different = first[~same]
    by_pair = different.groupby("pair_id")
    agree = by_pair[TARGET].transform("nunique") == 1
    # what was said last; where that is two things, none of them
    last = different["time"] == by_pair["time"].transform("max")
    both = different["pair_id"].isin(
        different.loc[last & different[last].duplicated(["pair_id"], keep=False), "pair_id"]
    )
    repeated = agree & different["pair_id"].duplicated()
    corrected = ~agree & ~both & ~last
    chosen = different[(agree & ~repeated) | (~agree & ~both & last)]
    findings = finding("duplicate-outcome", _named(first[same]))
    findings += finding("repeated-outcome", _named(different[repeated]))
    findings += finding("corrected-outcome", _named(different[corrected]))
    findings += finding("contradictory-outcome", _named(different[~agree & both]))
    counts = {
        "duplicate": int(same.sum()),
        "repeated": int(repeated.sum()),
        "corrected": int(corrected.sum()),
        "contradictory": int((~agree & both).sum()),
    }
    return pd.concat([read[~again], chosen])[columns].reset_index(drop=True), findings, counts


def _named(records: pd.DataFrame) -> list[str]:
    return [f"{pair} in {part}" for pair, part in zip(records["pair_id"], records["part"], strict=True)]


def _clocks(frame: pd.DataFrame, orphans: pd.DataFrame, now: pd.Timestamp) -> list[Finding]:
    backwards = frame[frame["outcome_time"] < frame["time"]]
    future = [*frame.loc[frame["time"] > now, "pair_id"], *frame.loc[frame["outcome_time"] > now, "pair_id"]]
    future += orphans.loc[orphans["time"] > now, "pair_id"].tolist()
    return finding("outcome-before-prediction", backwards["pair_id"].tolist()) + finding("in-the-future", future)
