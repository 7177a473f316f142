"""What the dashboard says and serves, without a browser."""

from __future__ import annotations

import gzip
import http.client
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from matchmaking import tracking
from matchmaking.live.alert_log import acknowledge, look
from matchmaking.live.alerts import Condition
from matchmaking.live.record import Live, Observed, typed
from matchmaking.live.series import Followed, Series
from matchmaking.release import registry
from matchmaking.release.audit import History
from matchmaking.release.records import Entry, State
from matchmaking.reporting import report
from matchmaking.reporting.dashboard import now, records
from matchmaking.reporting.dashboard.data import page_data
from matchmaking.reporting.dashboard.gauges import exposition
from matchmaking.reporting.dashboard.page import _json, dashboard_page
from matchmaking.reporting.dashboard.records import Records, Run
from matchmaking.reporting.dashboard.reigns import milliseconds, reigns
from matchmaking.reporting.dashboard.server import make_server
from mlops.cli.app import app
from tests.dashboard_fixtures import HOSTILE, NEW, NOW, OLD, holdout, record_everything, record_run


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.client.cache_clear()
    yield tmp_path
    tracking.client.cache_clear()


def run(pipeline: str = "evaluate", days_ago: float = 1, **changes: object) -> Run:
    start = int((NOW - timedelta(days=days_ago)).timestamp() * 1000)
    known = Run(
        f"{pipeline}{start}",
        f"{pipeline}_1",
        pipeline,
        "FINISHED",
        start,
        start + 1,
        "http://m/1",
        "",
        True,
        "",
        {},
        {},
        {},
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def entry(day: int, action: str, before: str, after: str, who: str = "ann@host", why: str = "it is better") -> Entry:
    def state(model: str) -> State:
        return State(sha256={"lawyer_match_model.h5": model}, version=f"v{model[:1]}")

    return Entry(
        id=f"{day}",
        time=f"202601{day:02}T000000Z",
        action=action,
        who=who,
        why=why,
        before=state(before),
        after=state(after),
    )


def audited(*entries: Entry, current: str, foreign: bool = False) -> History:
    return History([*entries], {}, State(sha256={"lawyer_match_model.h5": current}), foreign, [])


# ------------------------------------------------------------------------------------------------ production's reigns


def test_reigns_from_the_audit_trail() -> None:
    trail = audited(
        entry(10, "promote", OLD, NEW, who="pipeline run evaluate1"), entry(20, "rollback", NEW, OLD), current=OLD
    )
    promoted = run(id="evaluate1", url="http://m/promoted")
    found = reigns(Records(NOW, [promoted], audit=trail))
    assert [(each.name, each.how) for each in found] == [("va", "elsewhere"), ("vb", "promote"), ("va", "rollback")]
    assert [each.start for each in found] == [None, *map(milliseconds, ("20260110T000000Z", "20260120T000000Z"))]
    assert [each.end for each in found] == [found[1].start, found[2].start, None]
    assert found[1].url == "http://m/promoted" and found[2].who == "ann@host"
    champion = now.summarise(Records(NOW, [promoted], audit=trail)).facts[0]
    assert champion.text == "va" and "put back 20 Jan 2026" in champion.note and "by ann@host" in champion.note


def test_the_logs_tell_of_the_time_before_the_trail() -> None:
    starts = pd.date_range("2025-11-03", periods=6, freq="7D", tz="UTC")
    models = ["c" * 64] * 3 + [OLD] * 3
    frame = typed(pd.DataFrame({"start": starts, "end": starts + pd.Timedelta(weeks=1), "model": models}))
    observed = Observed("1", "observe_1", NOW, Live(period="week", now=NOW), frame)
    for before in (OLD, "d" * 64):
        trail = audited(entry(10, "promote", before, NEW), current=NEW)
        found = reigns(Records(NOW, observed=observed, audit=trail))
        between = [] if before == OLD else [("d", "elsewhere", int(starts[5].timestamp() * 1000))]
        assert [(each.name[-1], each.how, each.start) for each in found] == [
            ("c", "first seen", int(starts[0].timestamp() * 1000)),
            ("a", "elsewhere", int(starts[3].timestamp() * 1000)),
            *between,
            ("b", "promote", milliseconds("20260110T000000Z")),
        ]


def test_a_model_from_elsewhere_is_told() -> None:
    trail = audited(entry(10, "promote", OLD, NEW), current="c" * 64, foreign=True)
    seen = run(days_ago=3, params={"production_model": "c" * 64})
    found = Records(NOW, [seen], audit=trail)
    assert reigns(found)[-1].how == "elsewhere" and reigns(found)[-1].start == seen.start
    top = now.summarise(found)
    assert top.tone == "bad" and "no promotion of ours wrote" in top.problems[0].text


def test_reigns_from_what_runs_saw() -> None:
    runs = [
        run(days_ago=9, params={"production_model": OLD}),
        run("promote", 7, tags={"promoted": NEW}, url="http://m/promote"),
        run(days_ago=5, params={"production_model": NEW}),
        run(days_ago=2, params={"production_model": OLD}),
    ]
    found = reigns(Records(NOW, runs))
    assert [each.how for each in found] == ["first seen", "promote", "elsewhere"]
    assert found[1].url == "http://m/promote" and found[2].start == runs[3].start
    assert reigns(Records(NOW)) == []


def test_a_look_at_something_else_tells_of_no_reign() -> None:
    ours = {"period": "week", "source": "/logs", "predictions": "/logs"}
    tried = {"period": "week", "source": "/a.csv", "data": "/a.csv", "production": "/candidate"}
    runs = [
        run("observe", 3, params={**ours, "production_model": OLD}),
        run("observe", 2, params={**tried, "production_model": NEW}),
        run("observe", 1, params={**ours, "production_model": OLD}),
    ]
    found = reigns(Records(NOW, runs, followed=Followed(Series.of(ours), 2, "1", "observe_1")))
    assert [each.model for each in found] == [OLD]


# ------------------------------------------------------------------------------------------------ what is told


def test_a_pipeline_that_lost_its_rhythm_is_late() -> None:
    daily = [run(days_ago=day) for day in range(9, 2, -1)]
    assert now.lateness(daily, NOW) == "it usually runs every 24 hours"
    assert now.lateness(daily, NOW - timedelta(days=2)) == ""
    # by hand
    assert now.lateness([replace(each, scheduled=False) for each in daily], NOW) == ""
    assert now.lateness([run(days_ago=9 + n / 100) for n in range(5)], NOW) == ""
    top = now.summarise(Records(NOW, daily))
    assert top.tone == "bad" and [line.label for line in top.problems] == ["evaluate"]


def test_what_fires_is_told_once(mlflow: Path) -> None:
    record_run("evaluate", 1, status="FAILED", tags={"failure_reason": "no such file"})
    conditions = [
        Condition(
            "failed/evaluate", True, "warning", "evaluate failed", f"no such file {HOSTILE}", "javascript:alert(1)"
        ),
        Condition(
            "performance/recall", True, "critical", "recall is worse", "by 0.1", "http://localhost:5001/#/runs/1"
        ),
        Condition("drift", False, "warning", "", "", ""),
    ]
    look(conditions)
    top = now.summarise(records.read())
    assert [(line.tone, line.url) for line in top.problems] == [
        ("bad", "http://localhost:5001/#/runs/1"),
        ("attention", ""),
    ]
    assert "since" in top.problems[0].note and top.tone == "bad"
    acknowledge("performance/recall", "bob")
    line = now.summarise(records.read()).problems[-1]
    top = now.summarise(records.read())
    line = next(line for line in top.problems if "recall" in line.text)
    assert "acknowledged by bob" in line.note and line.tone == "attention" and top.tone == "attention"
    page = dashboard_page(records.read())
    assert "javascript:alert" not in page and "<img src=x" not in page


def test_nothing_is_lost_where_the_record_of_observe_is_damaged(mlflow: Path) -> None:
    ids = record_everything()
    artifact = next((mlflow / "mlflow-artifacts").rglob(f"{ids['observe']}/**/live.json"))
    artifact.write_text("{")
    found = records.read()
    assert found.observed is None and len(found.runs) == 8
    assert "The record of the live performance can't be read" in unescape(dashboard_page(found))


def test_a_page_without_any_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.client.cache_clear()
    result = CliRunner().invoke(app, ["dashboard", "--work-dir", str(tmp_path / "work")])
    tracking.client.cache_clear()
    assert result.exit_code == 0, result.output
    page = Path(result.output.strip())
    assert page == tmp_path / "work" / "dashboard.html"
    assert "No run is recorded yet." in page.read_text()
    # reading makes no database
    assert [each.name for each in page.parent.iterdir()] == ["dashboard.html"]


def test_a_local_run_is_linked_to_its_report(mlflow: Path) -> None:
    run_id = record_run("evaluate", 1, **holdout(0.8, OLD))
    name = tracking.client().get_run(run_id).info.run_name
    (mlflow / "runs" / name).mkdir(parents=True)
    (mlflow / "runs" / name / "report.html").touch()
    result = CliRunner().invoke(
        app, ["dashboard", "--work-dir", str(mlflow), "--out", str(mlflow / "pages" / "d.html")]
    )
    assert result.exit_code == 0, result.output
    assert f'href="../runs/{name}/report.html"' in (mlflow / "pages" / "d.html").read_text()


def test_a_slice_has_its_newest_windows_where_all_would_be_too_many(
    mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_everything()
    monkeypatch.setattr("matchmaking.reporting.dashboard.data.MOST_CELLS", 3 * 8 * 5)
    live = page_data(records.read())["live"]
    assert live["trimmed"] == 5
    assert [(len(each["rows"]), each["first"]) for each in live["slices"]] == [(12, 0), (5, 7), (5, 7)]


def test_the_policy_of_the_page_knows_its_two_scripts_alone(mlflow: Path) -> None:
    page = dashboard_page(records.read())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy and "unsafe-eval" not in policy[1] and "script-src 'sha256-" in policy[1]
    assert policy[1].count("sha256-") == 2 and "http" not in policy[1]
    assert len(re.findall("<script", page)) == 4


def test_a_number_that_json_does_not_have_is_null_in_the_page(mlflow: Path) -> None:
    assert str(_json({"a": [1.5, math.nan], "b": {"c": -math.inf, "d": "<"}})) == (
        r'{"a":[1.5,null],"b":{"c":null,"d":"\u003c"}}'
    )


# ------------------------------------------------------------------------------------------------ served


@pytest.fixture
def address(mlflow: Path) -> Iterator[tuple[str, int]]:
    server = make_server(records.read, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield "127.0.0.1", server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def ask(address: tuple[str, int], path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, dict(answer.headers)


def test_the_served_page_its_health_and_its_metrics(address: tuple[str, int]) -> None:
    ids = record_everything()
    look([Condition("drift", True, "warning", "the data has drifted", "budget", "")])
    assert ask(address, "/healthz")[:2] == (200, b"ok\n")
    status, body, headers = ask(address, "/")
    assert status == 200 and b"reload for what is new" in body and headers["X-Frame-Options"] == "DENY"
    status, packed, headers = ask(address, "/", **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip" and gzip.decompress(packed) == body
    assert ask(address, "/", "HEAD")[:2] == (200, b"")
    assert ask(address, "/etc/passwd")[0] == 404 and ask(address, "/", "POST")[0] == 501
    status, body, headers = ask(address, "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    second = tracking.client().get_run(ids["second"]).data.metrics
    assert found["matchmaking_production_holdout", "average_precision"] == second["production_average_precision"]
    assert found["matchmaking_runs", "FAILED", "evaluate"] == 1
    assert found["matchmaking_alerts", "drift", "firing", "warning"] == 1
    assert found["matchmaking_drifted",] == 0
    assert found["matchmaking_champion_info", NEW, "v20260101T000000Z"] == 1


def test_another_name_for_this_address_is_sent_away(address: tuple[str, int]) -> None:
    assert ask(address, "/", Host="evil.example")[0] == 403
    assert ask(address, "/", Host="localhost:5002")[0] == 200
    # a probe and a scraper come by address
    assert ask(address, "/healthz", Host="10.0.0.7:8080")[0] == 200


def test_mlflow_that_cannot_be_reached_is_told(mlflow: Path) -> None:
    def read() -> Records:
        raise tracking.TrackingError("MLflow at http://user:secret@mlflow can't be asked <b>")

    server = make_server(read, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    status, body, _ = ask(("127.0.0.1", server.server_address[1]), "/")
    server.shutdown()
    thread.join()
    server.server_close()
    assert status == 503 and b"secret" not in body and b"<b>" not in body


def test_numbers_that_are_none_and_tags_of_any_kind_break_no_page(mlflow: Path) -> None:
    odd = {"production_recall": float("nan"), "rows": float("nan"), "match_rate": float("inf")}
    odd |= {"unseen_categories": float("nan"), "seconds_evaluate": float("inf"), "drifted": float("nan")}
    odd |= {"difference_recall": float("-inf"), "difference_recall_margin": float("nan")}
    for pipeline in ("evaluate", "monitor", "retrain"):
        record_run(pipeline, 1, metrics=odd)
    record_run("evaluate", 2, **holdout(0.8, OLD))
    client = tracking.client()
    client.create_registered_model(registry.MODEL)
    tags = {"package": "v1", "primary_candidate": "<b>", "primary_production": "nan", "primary_metric": HOSTILE}
    version = client.create_model_version(registry.MODEL, "runs:/x/model", tags=tags)
    client.set_registered_model_alias(registry.MODEL, "challenger", version.version)
    found = records.read()
    page = dashboard_page(found)
    assert "v1 waits" in page
    assert exposition(found, 1.0)
    assert page_data(found)["data"]["rows"] == [12_000]


def test_what_no_one_has_thought_of_is_answered_and_fails_no_run(
    mlflow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(production_uri: str = "") -> Records:
        raise ValueError("a surprise <b>")

    monkeypatch.setattr(records, "read", read)
    page = mlflow / "page.html"
    page.write_text("the run's own report")
    report._show_dashboard(page, "")
    assert page.read_text() == "the run's own report"
    assert "the dashboard could not be made: ValueError: a surprise" in capsys.readouterr().out
    server = make_server(read, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        status, body, _ = ask(("127.0.0.1", server.server_address[1]), "/")
        assert status == 500 and b"ValueError: a surprise &lt;b&gt;" in body
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_or_served(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["dashboard", "--serve", "--out", str(tmp_path / "page.html")])
    assert result.exit_code != 0 and "give one of them" in str(result.exception)


def test_the_age_of_something() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert [now.ago(at, at + timedelta(hours=hours)) for hours in (0.5, 1, 30, 48)] == [
        "within the last hour",
        "1 hour ago",
        "30 hours ago",
        "2 days ago",
    ]
