"""The prediction and the outcome log: what is read, counted once, set aside and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.data.sample import generate
from matchmaking.data.schema import FEATURES
from matchmaking.live.logs import Logs, fetch_log, from_labelled, read_logs
from matchmaking.live.parts import write_part

NOW = pd.Timestamp("2025-03-01", tz="UTC")
MODEL = "a" * 64


def predictions(rows: int = 6, seed: int = 0) -> pd.DataFrame:
    frame = generate(rows, seed)[list(FEATURES)]
    frame.insert(0, "pair_id", [f"p{n}" for n in range(rows)])
    frame.insert(1, "time", pd.date_range("2025-02-01", periods=rows, freq="h", tz="UTC"))
    frame.insert(2, "model", MODEL)
    return frame.assign(probability=np.linspace(0.05, 0.95, rows))


def outcomes(pairs: pd.DataFrame, match: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"pair_id": pairs["pair_id"], "time": pairs["time"] + pd.Timedelta(days=7), "match": match})


def record(pair: pd.Series, **changes: Any) -> str:
    values = {**json.loads(pair.to_json(date_format="iso")), "version": 1, **changes}
    return json.dumps({key: value for key, value in values.items() if value is not ...}) + "\n"


def found(logs: Logs) -> dict[str, int]:
    return {one.code: one.count for one in logs.findings}


def balanced(logs: Logs) -> bool:
    return all(2 * book["read"] == sum(book.values()) for book in logs.accounts.values())


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "jsonl.gz", "ndjson"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    pairs = predictions()
    write_part(pairs, tmp_path / f"p.{suffix}", "prediction")
    write_part(outcomes(pairs[:4], [0, 1, 0, 1]), tmp_path / f"o.{suffix}", "outcome")
    logs = read_logs(tmp_path / f"p.{suffix}", tmp_path / f"o.{suffix}", NOW)
    assert logs.findings == []
    pd.testing.assert_frame_equal(logs.frame[list(pairs)], pairs, check_exact=True)
    assert logs.frame["match"].tolist()[:4] == [0, 1, 0, 1]
    assert logs.frame["match"].isna().tolist() == [False] * 4 + [True] * 2
    assert (logs.frame["outcome_time"] - logs.frame["time"]).dropna().eq(pd.Timedelta(days=7)).all()
    assert logs.accounts == {
        "predictions": {"used": 6, "duplicate": 0, "conflicting": 0, "invalid": 0, "read": 6},
        "outcomes": {
            **{"duplicate": 0, "repeated": 0, "corrected": 0, "contradictory": 0},
            **{"invalid": 0, "read": 4, "used": 4, "without prediction": 0},
        },
    }


def test_a_folder_of_parts_of_both_formats_is_one_log(tmp_path: Path) -> None:
    pairs = predictions()
    write_part(pairs[:2], tmp_path / "log" / "day=1" / "x.parquet", "prediction")
    write_part(pairs[2:], tmp_path / "log" / "day=2" / "y.jsonl", "prediction")
    (tmp_path / "log" / "_SUCCESS").touch()
    (tmp_path / "log" / ".x.parquet.tmp").write_text("somebody is writing this")
    (tmp_path / "log" / "notes.txt").touch()
    logs = read_logs(tmp_path / "log", None, NOW)
    pd.testing.assert_frame_equal(logs.frame[list(pairs)], pairs)
    assert found(logs) == {"other-file": 1}
    fetched = fetch_log(str(tmp_path / "log"), tmp_path / "copy")
    assert len(read_logs(fetched, None, NOW).frame) == 6
    assert fetch_log(str(tmp_path / "log" / "day=2" / "y.jsonl"), tmp_path / "one").name == "y.jsonl"


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_a_prediction_counts_once_whatever_the_order_of_parts(tmp_path: Path, order: list[str]) -> None:
    pairs = predictions()
    write_part(pairs, tmp_path / f"{order[0]}.parquet", "prediction")
    again = pairs[:3].copy()
    again.loc[2, ["probability", "time"]] = [0.5, pairs.loc[2, "time"] + pd.Timedelta(minutes=1)]
    write_part(again, tmp_path / f"{order[1]}.parquet", "prediction")
    logs = read_logs(tmp_path, None, NOW)
    pd.testing.assert_frame_equal(logs.frame[list(pairs)], pairs)
    assert found(logs) == {"duplicate-prediction": 2, "conflicting-prediction": 1}
    assert balanced(logs)
    assert any("p2" in text for one in logs.findings for text in one.examples)


def test_outcomes_that_repeat_correct_or_contradict(tmp_path: Path) -> None:
    pairs = predictions()
    write_part(pairs, tmp_path / "p.parquet", "prediction")
    first = outcomes(pairs, [1, 0, 1, 0, 1, 0])
    day = pd.Timedelta(days=1)
    others = pd.DataFrame(
        [
            ["p0", first["time"][0], 1],  # the same again
            ["p1", first["time"][1] + day, 0],  # the same at another time
            ["p2", first["time"][2] + day, 0],  # corrected later
            ["p3", first["time"][3], 1],  # both at once
            ["p4", first["time"][4] + day, 0],  # corrected, and then both at once
            ["p4", first["time"][4] + day, 1],
        ],
        columns=["pair_id", "time", "match"],
    )
    write_part(pd.concat([others, first]), tmp_path / "o.parquet", "outcome")
    logs = read_logs(tmp_path / "p.parquet", tmp_path / "o.parquet", NOW)
    assert logs.frame["match"].fillna(-1).tolist() == [1, 0, 0, -1, -1, 0]
    assert logs.frame["outcome_time"][1] == first["time"][1]
    assert found(logs) == {
        "duplicate-outcome": 1,
        "repeated-outcome": 1,
        "corrected-outcome": 1,
        "contradictory-outcome": 5,
    }
    assert balanced(logs)


def test_clocks_orphans_and_models(tmp_path: Path) -> None:
    pairs = predictions()
    pairs.loc[5, "model"] = "b" * 64
    pairs.loc[4, "time"] = NOW + pd.Timedelta(days=1)
    write_part(pairs, tmp_path / "p.parquet", "prediction")
    came = outcomes(pairs[:3], [1, 0, 1])
    came.loc[1, "time"] = pairs.loc[1, "time"] - pd.Timedelta(seconds=1)
    came.loc[2, "pair_id"] = "nobody"
    write_part(came, tmp_path / "o.parquet", "outcome")
    logs = read_logs(tmp_path / "p.parquet", tmp_path / "o.parquet", NOW, promoted={MODEL})
    assert found(logs) == {
        "in-the-future": 1,
        "model-not-promoted": 1,
        "outcome-before-prediction": 1,
        "outcome-without-prediction": 1,
    }
    assert logs.orphans["pair_id"].tolist() == ["nobody"]
    assert len(logs.frame) == 6
    assert logs.frame["match"].notna().sum() == 2
    assert balanced(logs)


def test_time_zones_are_normalised_and_told(tmp_path: Path) -> None:
    pairs = predictions(4)
    times = ["2025-02-01T00:00:00Z", "2025-02-01T06:30:00+05:30", "2025-02-01 02:00:00", "2025-01-31T22:00:00-0500"]
    lines = [record(pair, time=time) for (_, pair), time in zip(pairs.iterrows(), times, strict=True)]
    (tmp_path / "p.jsonl").write_text("".join(lines))
    write_part(
        pairs[:1].assign(time=pd.Timestamp("2025-02-01 09:30", tz="Asia/Kolkata"), pair_id="k"),
        tmp_path / "k.parquet",
        "prediction",
    )
    logs = read_logs(tmp_path, None, NOW)
    expected = [pd.Timestamp("2025-02-01", tz="UTC") + pd.Timedelta(hours=h) for h in range(5)]
    assert logs.frame["time"].tolist() == expected
    assert found(logs) == {"time-zones": 4, "time-without-zone": 1}


def test_half_written_and_broken_parts_cost_only_themselves(tmp_path: Path) -> None:
    pairs = predictions()
    write_part(pairs[:2], tmp_path / "a.parquet", "prediction")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    lines = [record(pair) for _, pair in pairs[2:].iterrows()]
    (tmp_path / "c.jsonl").write_text(lines[0] + "not json\n" + lines[1] + lines[2][:40])
    (tmp_path / "d.jsonl").touch()
    write_part(pairs[5:], tmp_path / "e.jsonl.gz", "prediction")
    packed = (tmp_path / "e.jsonl.gz").read_bytes()
    (tmp_path / "f.jsonl.gz").write_bytes(packed[:-12])
    logs = read_logs(tmp_path, None, NOW)
    assert logs.frame["pair_id"].tolist() == ["p0", "p1", "p2", "p3", "p5"]
    assert found(logs) == {"half-written-part": 3, "unreadable-part": 1, "invalid-record": 1}
    examples = {one.code: " ".join(one.examples) for one in logs.findings}
    assert examples["unreadable-part"].startswith("b.parquet")
    assert "c.jsonl: breaks off in line 4" in examples["half-written-part"]
    assert "c.jsonl: line 2 is no JSON object" in examples["invalid-record"]
    assert balanced(logs)


def test_a_line_nested_too_deeply_is_an_invalid_record(tmp_path: Path) -> None:
    lines = [record(pair) for _, pair in predictions()[:2].iterrows()]
    (tmp_path / "a.jsonl").write_text(lines[0] + "[" * 100_000 + "\n" + lines[1])
    logs = read_logs(tmp_path, None, NOW)
    assert logs.frame["pair_id"].tolist() == ["p0", "p1"]
    assert found(logs) == {"invalid-record": 1} and balanced(logs)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("time", "yesterday"),
        ("time", 1738368000),
        ("probability", 1.5),
        ("probability", None),
        ("budget", 1.5),
        ("rating", 6),
        ("city", ""),
        ("model", "v12"),
        ("pair_id", ...),
        ("pair_id", 7),
    ],
)
def test_an_invalid_record_is_set_aside_and_named(tmp_path: Path, column: str, value: Any) -> None:
    pairs = predictions(3)
    good, bad, last = (pair for _, pair in pairs.iterrows())
    (tmp_path / "p.jsonl").write_text(record(good) + record(bad, **{column: value}) + record(last))
    logs = read_logs(tmp_path, None, NOW)
    assert logs.frame["pair_id"].tolist() == ["p0", "p2"]
    assert [(one.code, one.examples) for one in logs.findings] == [
        ("invalid-record", (f"p.jsonl: record 2, {column}",))
    ]
    assert balanced(logs)


def test_another_format_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    pair = predictions(1).iloc[0]
    for version, said in ((2, "version '2'"), ("one", "version 'one'"), (..., "version none")):
        (tmp_path / "p.jsonl").write_text(record(pair, version=version))
        with pytest.raises(InputError, match=f"p.jsonl: 1 records have the format {said}.*reads 1, .*; update"):
            read_logs(tmp_path, None, NOW)


@pytest.mark.parametrize("version", [2, "one", ...])
def test_records_of_another_format_version_are_set_aside_alone(tmp_path: Path, version: Any) -> None:
    """A writer was updated before this program: what the others wrote still counts, in the same part, too."""
    pairs = predictions()
    write_part(pairs[:3], tmp_path / "a.parquet", "prediction")
    newer = [record(pairs.iloc[n], version=version) for n in (3, 4)]
    (tmp_path / "b.jsonl").write_text("".join([*newer, record(pairs.iloc[5])]))
    (tmp_path / "c.jsonl").write_text(newer[0])
    logs = read_logs(tmp_path, None, NOW)
    assert logs.frame["pair_id"].tolist() == ["p0", "p1", "p2", "p5"]
    assert found(logs) == {"other-version": 3}
    said = "none" if version is ... else f"'{version}'"
    assert logs.findings[0].examples[0] == f"b.jsonl: 2 records have the format version {said}"
    assert logs.accounts["predictions"]["invalid"] == 3 and balanced(logs)


def test_no_log_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="doesn't exist"):
        read_logs(tmp_path / "none", None, NOW)
    with pytest.raises(InputError, match="no part of the prediction log can be read"):
        read_logs(tmp_path, None, NOW)
    (tmp_path / "p.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"p\.parquet: "):
        read_logs(tmp_path, None, NOW)
    with pytest.raises(InputError, match="a log's name ends in"):
        write_part(predictions(1), tmp_path / "p.csv", "prediction")
    with pytest.raises(InputError, match="needs the column probability"):
        write_part(predictions(1).drop(columns="probability"), tmp_path / "p.parquet", "prediction")


def test_a_log_without_a_record_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").touch()
    write_part(outcomes(predictions(), [0] * 6)[:0], tmp_path / "o.parquet", "outcome")
    logs = read_logs(tmp_path / "p.jsonl", tmp_path / "o.parquet", NOW)
    assert len(logs.frame) == 0
    assert str(logs.frame["time"].dtype) == str(logs.frame["outcome_time"].dtype) == "datetime64[ns, UTC]"
    assert found(logs) == {"half-written-part": 1}


def test_a_labelled_file_is_adapted() -> None:
    pairs = generate(5, 0)
    pairs.loc[1] = pairs.loc[0]
    plain = from_labelled(pairs, np.full(5, 0.5), MODEL, NOW)
    assert len(plain.frame) == 5
    assert plain.frame["match"].tolist() == pairs["match"].tolist()
    assert (plain.frame["time"] == NOW).all()
    assert found(plain) == {"no-time": 5}
    times = pd.Series(["2025-02-05", "2025-02-01T01:00:00+01:00", "2025-02-03", "2025-02-02", "2025-02-04"])
    timed = from_labelled(pairs, np.linspace(0, 1, 5), MODEL, NOW, times)
    assert timed.frame["pair_id"].tolist() == ["row-2", "row-4", "row-3", "row-5", "row-1"]
    assert timed.findings == []
    with pytest.raises(InputError, match="rows 2"):
        from_labelled(pairs[:2], np.zeros(2), MODEL, NOW, pd.Series(["2025-02-05", "soon"]))
    with pytest.raises(InputError, match="5 labelled pairs"):
        from_labelled(pairs, np.zeros(4), MODEL, NOW)
