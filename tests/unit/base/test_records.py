"""What is kept as JSON: read back whole, refused in one line where it is damaged or newer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from matchmaking.base.records import NewerError, RecordError, read_record
from matchmaking.model import production
from matchmaking.release.records import Entry, Journal, Manifest, State
from matchmaking.reporting.summary import Summary

SHA = {name: character * 64 for name, character in zip(production.FILES, "abc", strict=True)}
# as the first version wrote it: without a format
LINE = {
    "id": "1",
    "time": "20260101T000000Z",
    "action": "promote",
    "who": "ada@host",
    "why": "it is better",
    "overridden": [],
    "from": {"sha256": {}, "version": None, "registry_version": None},
    "to": {"sha256": SHA, "version": "v1", "registry_version": "2"},
    "backup": None,
    "production": "/srv/production",
}


def test_a_line_of_the_first_version_is_read() -> None:
    entry = read_record(Entry, json.dumps(LINE), "line 1")
    assert entry.before == State()
    assert entry.after == State(sha256=SHA, version="v1", registry_version="2")
    assert entry.as_dict() == {**LINE, "format": 1, "abandoned": None, "experiment": None}


def test_what_a_newer_version_added_is_kept() -> None:
    entry = read_record(Entry, json.dumps({**LINE, "ticket": "OPS-7"}), "line 1")
    assert json.loads(entry.as_json())["ticket"] == "OPS-7"
    assert "\n" not in entry.as_json()


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(NewerError, match=r"manifest\.json was written by a newer version of mlops \(format 2"):
        read_record(Manifest, '{"format": 2, "anything": []}', "manifest.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"promote"',
        "17",
        "[" * 100_000,
        b"\xff\xfe",
        "{}",
        json.dumps({**LINE, "action": "swept the floor"}),
        json.dumps({**LINE, "to": None}),
        json.dumps({**LINE, "to": {"sha256": {"../x": "a" * 64}}}),
        json.dumps({**LINE, "to": {"sha256": {production.MODEL: "short"}}}),
        json.dumps({**LINE, "format": "two"}),
        json.dumps({**LINE, "format": 0}),
    ],
)
def test_what_is_no_entry_is_told_in_one_line(text: str | bytes) -> None:
    with pytest.raises(RecordError, match=r"^line 3 is") as told:
        read_record(Entry, text, "line 3")
    assert "\n" not in str(told.value)
    assert not isinstance(told.value, NewerError)


@pytest.mark.parametrize(
    "backup", ["", ".", "..", "/etc", ".mlops/backups", ".mlops/backups/..", ".mlops/backups/a/../.."]
)
def test_a_journal_names_no_folder_but_a_backup(backup: str) -> None:
    """Undoing a change deletes what its journal names."""
    with pytest.raises(RecordError, match="backup"):
        read_record(Journal, json.dumps({**LINE, "backup": backup}), "the journal")


def test_the_files_of_a_state_are_productions() -> None:
    assert set(read_record(Entry, json.dumps(LINE), "x").after.sha256) == set(production.FILES)


def test_every_field_of_the_summary_is_described() -> None:
    assert all(field.description for field in Summary.model_fields.values())


def test_a_summary_of_an_earlier_version_is_read() -> None:
    earlier: dict[str, Any] = {"pipeline": "monitor", "run_name": "monitor_1", "status": "failed", "error": None}
    assert read_record(Summary, json.dumps(earlier), "summary.json").promotion is None
