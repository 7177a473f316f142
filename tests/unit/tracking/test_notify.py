"""Notifications: who is told what, and that nothing of it can fail a run or leak an address."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matchmaking.reporting import report
from matchmaking.tracking import notify
from tests.webhook import SECRET, Hook


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.delenv(notify.URLS_FILE, raising=False)
    hook = Hook()
    monkeypatch.setenv(notify.URLS, hook.url)
    yield hook
    hook.close()


def test_everybody_is_told(hook: Hook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "urls").write_text(f"# the team\n{hook.url}\n\n")
    monkeypatch.setenv(notify.URLS_FILE, str(tmp_path / "urls"))
    assert notify.send("promotion", "Promoted v1", "see https://ada:pw@example.org/x")
    assert len(hook.bodies) == 2
    assert hook.bodies[0]["title"] == "[promotion] Promoted v1"
    assert hook.bodies[0]["message"] == "see https://***@example.org/x"
    assert hook.bodies[0]["type"] == "success"


def test_nobody_to_tell_is_fine_and_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (notify.URLS, notify.URLS_FILE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notify, "_send", lambda *_: pytest.fail("apprise was asked"))
    assert not notify.send("failed", "x", "y")


@pytest.mark.parametrize("url", [f"json://user:{SECRET}@127.0.0.1:9/", f"nosuch://{SECRET}", f"{SECRET}"])
def test_an_address_that_fails_is_told_without_the_address(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(notify.URLS, url)
    assert not notify.send("failed", "A run failed", "why")
    printed = capfd.readouterr()
    assert "A run failed" in printed.out
    assert SECRET not in printed.out + printed.err + caplog.text


def test_a_secret_that_is_not_mounted_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(notify.URLS_FILE, str(tmp_path / "none"))
    assert not notify.send("failed", "A run failed", "why")


def test_a_server_that_never_answers_is_not_waited_for(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    hook.delay = 3
    monkeypatch.setattr(notify, "SECONDS", 0.3)
    begun = time.monotonic()
    assert not notify.send("failed", "A run failed", "why")
    assert time.monotonic() - begun < 2


def run_summary(**changes: Any) -> dict[str, Any]:
    return {
        "pipeline": "retrain",
        "run_name": "retrain_1",
        "run_id": "abc",
        "reasons": ["because"],
        "candidate_uri": None,
        "verdict": "hold",
        "drift": None,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "decision", "event"),
    [
        ({"verdict": "promote", "candidate_uri": "/c/v1"}, {}, "improved"),
        ({"verdict": "bootstrap", "candidate_uri": "/c/v1"}, {}, "improved"),
        ({"verdict": "reject"}, {"contract": {"passed": False}}, "rejected"),
        # of harm
        ({"verdict": "reject"}, {"contract": {"passed": True}}, "rejected"),
        ({"verdict": "hold"}, {}, None),
        # a state, which `look` tells of
        ({"verdict": None, "drift": {"drifted": True, "drifted_columns": ["city"]}}, None, None),
    ],
)
def test_what_is_news_of_a_run(
    changes: dict[str, Any], decision: dict[str, Any] | None, event: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setenv(notify.URLS, "json://localhost")
    monkeypatch.setattr(notify, "send", lambda event, title, body: told.append(event))
    report._tell(run_summary(**changes), decision)
    assert told == ([event] if event else [])


def test_a_failed_step_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from matchmaking.base.errors import InputError
    from matchmaking.tracking.step import step

    told: list[tuple[str, str, str]] = []
    monkeypatch.setenv(notify.URLS, "json://localhost")
    monkeypatch.setattr(notify, "send", lambda *given: told.append(given))
    with pytest.raises(SystemExit), step("ingest", ""):
        raise InputError("no such file")
    ((event, _, body),) = told
    assert event == "failed"
    assert "ingest: no such file" in body


def test_who_takes_html_gets_text_all_the_same(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """An e-mail is HTML by default, and a reason may hold a category."""
    monkeypatch.setenv(notify.URLS, f"{hook.url}?format=html")
    assert notify.send("failed", "a <b>title\x1b[2J", 'city: <img src=x onerror="a()">\x1b[31m\nsecond line')
    (body,) = hook.bodies
    assert "<img" not in body["message"] and "&lt;img" in body["message"]
    assert "\x1b" not in json.dumps(body, ensure_ascii=False)
    assert "<br/>second" in body["message"]
