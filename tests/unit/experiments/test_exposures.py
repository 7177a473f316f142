"""Reading the exposure log, and shipping it."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.experiments import exposures
from matchmaking.experiments.exposures import keep_lines, read_exposures, ship
from tests.exposure_fixtures import line, write


def test_a_line_as_nginx_writes_it(tmp_path: Path) -> None:
    written = line().replace("12.0", "0.012e3").replace("250+00:00", "250+05:30")
    frame = read_exposures(write(tmp_path, "a.jsonl", written)).frame
    assert list(frame.columns)[:7] == ["time", "unit", "variant", "model", "request", "status", "latency_ms"]
    (row,) = frame.to_dict("records")
    assert row["time"] == pd.Timestamp("2026-03-01T06:37:00.250Z")
    assert (row["status"], row["latency_ms"], row["unit"]) == (200, 12.0, "client-1")


def test_what_is_odd_is_named_and_costs_nothing_else(tmp_path: Path) -> None:
    good = [line(request=f"{number:032d}", time=f"2026-03-01T12:07:{10 - number:02d}+00:00") for number in range(3)]
    write(tmp_path, "day/1.jsonl", *good, "no json\n", line(request="f" * 32)[:-20])
    write(tmp_path, "2.jsonl", good[0], line(unit="Asha Rao"), line(status="2xx"), line(time="noon"), line(version=2))
    (tmp_path / "3.jsonl.gz").write_bytes(gzip.compress(line(request="e" * 32).encode())[:30])
    found = read_exposures(tmp_path)
    assert list(found.frame["request"]) == [f"{number:032d}" for number in (2, 1, 0)]
    assert {one.code: one.count for one in found.findings} == {
        "half-written-part": 1,
        "unreadable-part": 1,
        "invalid-record": 4,
        "other-version": 1,
        "duplicate-line": 1,
    }


def test_a_line_nested_too_deeply_is_an_invalid_record(tmp_path: Path) -> None:
    write(tmp_path, "1.jsonl", line(), "[" * 100_000 + "\n", line(request="f" * 32), line(experiment="other-1"))
    keep_lines(tmp_path, "ranking-1")
    found = read_exposures(tmp_path)
    assert len(found.frame) == 2 and set(found.frame["experiment"]) == {"ranking-1"}
    assert [(one.code, one.count) for one in found.findings] == [("invalid-record", 1)]
    assert "line 2 is no JSON object" in found.findings[0].examples[0]


def test_both_lines_of_a_request_in_shadow_mode_count(tmp_path: Path) -> None:
    lines = [line(mode="shadow", unit="", variant=variant) for variant in ("champion", "challenger")]
    assert len(read_exposures(write(tmp_path, "a.jsonl", *lines)).frame) == 2


def test_the_services_version_is_kept_where_a_line_has_it(tmp_path: Path) -> None:
    plain = line(request="1" * 32)
    assert "service" not in read_exposures(write(tmp_path, "plain.jsonl", plain)).frame
    odd = line(request="2" * 32, service=15)
    found = read_exposures(
        write(tmp_path, "a.jsonl", line(service="1.4"), plain, odd, line(request="3" * 32, service=""))
    )
    assert found.frame["service"].tolist() == ["1.4", None, None]
    assert [(one.code, one.count) for one in found.findings] == [("invalid-record", 1)]


def test_one_experiment_of_several(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", line(), line(experiment="other", request="1" * 32))
    assert list(read_exposures(path, "other").frame["request"]) == ["1" * 32]


def test_no_lines_give_an_empty_log(tmp_path: Path) -> None:
    frame = read_exposures(tmp_path).frame
    assert len(frame) == 0 and str(frame["time"].dtype) == "datetime64[ns, UTC]" and frame["status"].dtype == "int64"
    with pytest.raises(InputError, match="doesn't exist"):
        read_exposures(tmp_path / "none")


def test_parts_go_whole_once_their_minute_is_over(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    old, new = "exposures-2026-03-01T1207.jsonl", "exposures-2026-03-01T1208.jsonl"
    write(log, old, line(), line(request="1" * 32))
    write(log, new, line(request="2" * 32))
    assert ship(log, str(store), now=datetime(2026, 3, 1, 12, 8, 4, tzinfo=UTC)) == 0
    assert ship(log, str(store), now=datetime(2026, 3, 1, 12, 8, 6, tzinfo=UTC)) == 1
    assert [path.name for path in log.iterdir()] == [new]
    assert len(read_exposures(store).frame) == 2
    assert ship(log, str(store), everything=True, now=datetime(2026, 3, 1, 12, 8, 6, tzinfo=UTC)) == 1
    assert list(log.iterdir()) == []
    frame = read_exposures(store).frame
    assert len(frame) == 3
    names = sorted(path.relative_to(store).as_posix() for path in store.rglob("*.gz"))
    assert [name[:15] for name in names] == ["2026-03-01/1207", "2026-03-01/1208"]


def test_a_shipper_that_was_killed_ships_the_same_part_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    path = write(log, "exposures-2026-03-01T1207.jsonl", line())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def killed(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(Path, "unlink", killed)
        ship(log, str(store))
    assert path.exists() and len(list(store.rglob("*.gz"))) == 1
    assert ship(log, str(store)) == 1 and not path.exists()
    assert len(list(store.rglob("*.gz"))) == 1
    # a gateway that began anew in the same minute
    write(log, path.name, line(request="1" * 32))
    assert ship(log, str(store)) == 1
    assert len(read_exposures(store).frame) == 2


def test_a_store_that_can_not_be_written_leaves_the_parts(tmp_path: Path) -> None:
    path = write(tmp_path / "log", "exposures-2026-03-01T1207.jsonl", line())
    (tmp_path / "store").write_text("a file")
    with pytest.raises(InputError):
        ship(tmp_path / "log", str(tmp_path / "store"))
    assert path.exists()


def test_the_page_has_every_column() -> None:
    page = (Path(__file__).parents[3] / "docs" / "experiments.md").read_text().split("## The exposure log")[1]
    assert all(f"`{column}`" in page for column in ("version", *exposures.COLUMNS, exposures.OPTIONAL))
