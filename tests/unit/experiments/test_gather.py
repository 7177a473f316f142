"""An experiment's logs, brought and read: tables of any format, in one file or many."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.experiments import gather
from matchmaking.experiments.gather import Sources, fetch, moment, read_table
from tests.exposure_fixtures import line, write

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
        ("o.csv.gz", gzip.compress(b"unit,match\n1,1\n")[:-9], "can't be read"),
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
