"""An experiment's logs, brought and read: tables of any format, in one file or many."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.experiments import gather
from matchmaking.experiments.definition import Definition
from matchmaking.experiments.gather import Sources, fetch, moment, read_table
from tests.exposure_fixtures import line, write
from tests.unit.experiments.test_definition import GIVEN

ROWS = pd.DataFrame(
    {
        "unit": ["007", "8", "client-9"],
        "time": ["2026-03-01T12:00:00+02:00", "2026-03-02T00:00:00Z", "2026-03-03T00:00:00.5Z"],
        "match": [1, 0, 1],
        "request": ["00000000000000000000000000000012", None, "ab"],
    }
)


def put(frame: pd.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".parquet"):
        frame.to_parquet(path)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["o.parquet", "o.csv", "o.csv.gz", "o.jsonl", "o.jsonl.gz", "outcomes"])
def test_a_table_says_the_same_in_each_format(tmp_path: Path, name: str) -> None:
    found = read_table(put(ROWS, tmp_path / name), "outcomes")
    assert list(found["unit"]) == ["007", "8", "client-9"]
    assert list(found["request"].isna()) == [False, True, False] and found["request"][0] == ROWS["request"][0]
    assert found["time"][0] == pd.Timestamp("2026-03-01T10:00:00Z") and found["match"].sum() == 2


def test_parts_of_any_format_are_one_table(tmp_path: Path) -> None:
    put(ROWS[:1], tmp_path / "day=1" / "a.parquet")
    put(ROWS[1:2], tmp_path / "day=2" / "b.csv")
    put(ROWS[2:], tmp_path / "c.jsonl")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".b.csv.tmp").write_text("half")
    assert sorted(read_table(tmp_path, "outcomes")["unit"]) == ["007", "8", "client-9"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("o.csv", b"", "can't be read"),
        ("o.parquet", b"PAR1", "can't be read"),
        ("o.jsonl", b'{"unit": "1"', "can't be read"),
        ("o.jsonl", b"[" * 100_000 + b"\n", "can't be read: maximum recursion depth exceeded"),
        ("o.csv.gz", gzip.compress(b"unit,match\n1,1\n", mtime=0)[:-9], "can't be read"),
        ("o.csv", b"unit,time,match\n1,yesterday,1\n", "yesterday"),
        ("o.csv", b"unit,time,match\n1,2026-03-01T00:00:00Z,yes\n", "yes"),
        ("o.csv", b"unit,time,match\n1,2026-03-01T00:00:00Z,2\n", "match is 0 or 1"),
    ],
)
def test_what_is_no_table_is_said(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as raised:
        read_table(tmp_path / name, "outcomes")
    assert "outcomes" in str(raised.value)


@pytest.mark.parametrize("name", ["o.parquet", "o.jsonl"])
def test_a_number_that_is_an_id_stays_a_whole_one_where_another_is_missing(tmp_path: Path, name: str) -> None:
    # above 2 ** 53 a float has gaps
    large = 2**60 + 1
    if name == "o.jsonl":
        (tmp_path / name).write_text(f'{{"unit": 7}}\n{{"match": 1}}\n{{"unit": {large}}}\n')
    else:
        pq.write_table(pa.table({"unit": pa.array([7, None, large], pa.int64())}), tmp_path / name)
    assert [None if unit is pd.NA else unit for unit in read_table(tmp_path / name, "outcomes")["unit"]] == [
        *("7", None, str(large))
    ]


def test_a_fraction_is_no_id(tmp_path: Path) -> None:
    pd.DataFrame({"unit": [7.0, None]}).to_parquet(tmp_path / "o.parquet")
    assert read_table(tmp_path / "o.parquet", "outcomes")["unit"][0] == "7"
    pd.DataFrame({"unit": [7.5]}).to_parquet(tmp_path / "o.parquet")
    with pytest.raises(InputError, match=r"7\.5 is no id"):
        read_table(tmp_path / "o.parquet", "outcomes")


def test_of_the_exposures_come_the_days_and_the_lines_of_the_experiment(tmp_path: Path) -> None:
    definition = Definition.model_validate({**GIVEN, "name": "ranking-1", "start": "2026-03-10T00:00:00Z"})
    log, here = tmp_path / "log", tmp_path / "here"
    mine, other = line(), line(experiment="ranking-0")
    for day in ("2026-01-01", "2026-03-01", "2026-03-09", "2026-03-12", "2026-03-13", "2026-03-20"):
        write(log, f"{day}/0000-a.jsonl", mine, other, "torn\n", '{"version": 1, "exp')
    write(log, "2026-03-11/0001-b.jsonl", other)
    write(log, "by-hand.jsonl", mine)
    packed = log / "2026-03-11" / "0002-c.jsonl.gz"
    packed.write_bytes(gzip.compress((other + mine).encode()))
    now = pd.Timestamp("2026-03-12T12:00:00Z")
    fetch(Sources(str(log)), here, definition, now)
    there = {path.relative_to(here / "exposures").as_posix(): path for path in (here / "exposures").rglob("*.jsonl*")}
    assert sorted(there) == [
        *("2026-03-09/0000-a.jsonl", "2026-03-11/0002-c.jsonl.gz", "2026-03-12/0000-a.jsonl"),
        *("2026-03-13/0000-a.jsonl", "by-hand.jsonl"),
    ]
    assert there["2026-03-12/0000-a.jsonl"].read_text() == mine + 'torn\n{"version": 1, "exp'
    assert gzip.decompress(there["2026-03-11/0002-c.jsonl.gz"].read_bytes()).decode() == mine


def test_what_may_not_be_read_is_not_taken_for_what_isnt_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(tmp_path / "log", "2026-03-01/0000-a.jsonl", line()).parents[1]
    outcomes = tmp_path / "outcomes"
    put(ROWS, outcomes / "a.csv")
    put(ROWS, outcomes / "b.csv")
    monkeypatch.setattr(gather, "EXPECTED", (str(outcomes),))

    names = storage.list_names

    def refused(uri: str) -> list[str]:
        if uri == str(outcomes):
            raise InputError(f"{uri}: access denied")
        return names(uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "list_names", refused)
        with pytest.raises(InputError, match="access denied"):
            fetch(Sources(str(log), str(outcomes)), tmp_path / "here")
    with monkeypatch.context() as patch:
        # a part that was listed, and has vanished since
        patch.setattr(storage, "list_names", lambda uri: ["a.csv", "gone.csv"] if uri == str(outcomes) else [])
        patch.setattr(gather, "EXPECTED", (str(log), str(outcomes)))
        with pytest.raises(InputError, match=r"gone\.csv doesn't exist"):
            fetch(Sources(str(log), str(outcomes)), tmp_path / "here")


def test_on_the_first_morning_nothing_needs_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = pd.Timestamp.now("UTC")
    definition = Definition.model_validate({**GIVEN, "start": (now - pd.Timedelta(hours=8)).isoformat()})
    (tmp_path / "exposures").mkdir()
    with pytest.raises(InputError, match=r"exposures: .* has nothing in it"):
        fetch(Sources(str(tmp_path / "exposures")), tmp_path / "here", definition, now)
    monkeypatch.setattr(gather, "EXPECTED", (str(tmp_path / "exposures"),))
    fetch(Sources(str(tmp_path / "exposures")), tmp_path / "here", definition, now)
    found, _ = gather.read(tmp_path / "here", definition, now, now)
    assert (found.verdict.state, found.exposed, found.to_come) == ("go on", 0, False)
    # tomorrow isn't over
    assert gather.read(tmp_path / "here", definition, now + pd.Timedelta(days=1), now)[0].to_come


def test_a_run_of_a_time_to_come_is_refused(tmp_path: Path) -> None:
    stamp = f"{pd.Timestamp.now('UTC') + pd.Timedelta(days=1):%Y%m%dT%H%M%SZ}"
    with pytest.raises(InputError, match="is still to come"):
        gather.gather("ranking-1", Sources("none"), "", stamp, tmp_path)


def test_logs_are_brought_whole_and_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write(tmp_path / "log", "2026-03-01/0000-a.jsonl", line()).parents[1]
    outcomes = put(ROWS, tmp_path / "outcomes.csv")
    first = fetch(Sources(str(log), str(outcomes)), tmp_path / "here")
    # again, over what an attempt that was killed has left
    write(tmp_path / "here", "exposures/left.jsonl", line())
    assert fetch(Sources(str(log), str(outcomes)), tmp_path / "here") == first
    put(ROWS[:2], outcomes)
    assert fetch(Sources(str(log), str(outcomes)), tmp_path / "here") != first
    with pytest.raises(InputError, match=r"pairs: .*none"):
        fetch(Sources(str(log), "", str(tmp_path / "none")), tmp_path / "there")
    # where a schedule looks there need be nothing yet
    monkeypatch.setattr(gather, "EXPECTED", (str(tmp_path / "none"),))
    assert fetch(Sources(str(log), str(tmp_path / "none")), tmp_path / "there")


@pytest.mark.parametrize("text", ["2026-03-01", "soon"])
def test_a_moment_has_an_offset(text: str) -> None:
    assert moment("2026-03-01T02:00:00+02:00") == pd.Timestamp("2026-03-01T00:00:00Z")
    with pytest.raises(InputError, match="no time with an offset"):
        moment(text)
