"""The dashboard in a browser: no errors, the controls work, and its numbers are MLflow's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.live.estimate import METRICS
from matchmaking.live.record import newest_record
from mlops.cli.dashboard import write_dashboard
from tests.browser import Tab, chromium
from tests.dashboard_fixtures import HOSTILE, record_everything

DRAWN = "document.querySelector('html[data-drawn]')"
WIDTHS = (390, 900, 1600)


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with chromium() as tab:
        yield tab


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A page over some runs of each pipeline, and the runs' ids."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        tracking.client.cache_clear()
        ids = record_everything()
        yield write_dashboard(folder), ids
    tracking.client.cache_clear()


@pytest.fixture
def page(browser: Tab, recorded: tuple[Path, dict[str, str]]) -> Tab:
    browser.errors.clear()
    browser.requested.clear()
    browser.open(recorded[0].as_uri(), ready=DRAWN)
    return browser


def rows(tab: Tab, chart: str, name: str) -> list[dict[str, Any]]:
    return tab.evaluate(f"dashboard.whenReady().then(() => dashboard.views['{chart}'].data('{name}'))")


def choose(tab: Tab, control: str, value: str) -> None:
    assert tab.evaluate(
        f"""(() => {{
            const select = document.getElementById('{control}');
            select.value = {value!r};
            select.dispatchEvent(new Event('change'));
            return dashboard.whenReady().then(() => select.value === {value!r});
        }})()"""
    )


def test_it_needs_nothing_beside_it_and_tells_no_error(page: Tab, recorded: tuple[Path, dict[str, str]]) -> None:
    assert page.errors == []
    assert {url for url in page.requested if not url.startswith("data:")} == {recorded[0].as_uri()}
    titles = page.evaluate("[...document.querySelectorAll('section h2')].map((each) => each.textContent)")
    assert titles == ["Production over time", "Drift", "Candidates", "Data and runs"]
    assert page.evaluate("document.querySelector('section').id") == "now"
    charts = page.evaluate("Object.keys(dashboard.views).sort()")
    assert charts == ["candidates", "drift", "live", "match-rate", "rows", "runs", "steps", "unseen"]
    assert page.evaluate("[...document.querySelectorAll('.chart')].every((each) => each.querySelector('svg'))")


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits(browser: Tab, recorded: tuple[Path, dict[str, str]], width: int) -> None:
    browser.errors.clear()
    browser.open(recorded[0].as_uri(), width=width, ready=DRAWN)
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    wide = "[...document.querySelectorAll('svg')].every((each) => each.getBoundingClientRect().right <= innerWidth + 1)"
    assert browser.evaluate(wide)
    assert browser.errors == []


def test_each_window_is_mlflows_point(page: Tab, recorded: tuple[Path, dict[str, str]]) -> None:
    observe = recorded[1]["observe"]
    for metric in METRICS:
        choose(page, "metric", metric)
        drawn = rows(page, "live", "points")
        for series, key in (("measured", "live_measured_"), ("estimated", "live_estimated_")):
            history = tracking.client().get_metric_history(observe, f"{key}{metric}")
            wanted = sorted((point.timestamp, point.value) for point in history)
            assert wanted and sorted((row["t"], row["value"]) for row in drawn if row["series"] == series) == wanted
        held = {row["value"] for row in drawn if row["series"] == "held-out rows"}
        wanted = [
            tracking.client().get_run(recorded[1][name]).data.metrics[f"production_{metric}"]
            for name in ("first", "second")
        ]
        assert held == set(wanted)
    bands = rows(page, "live", "bands")
    high = tracking.client().get_metric_history(observe, f"live_measured_{metric}_high")
    assert {row.get("high") for row in bands if row["series"] == "measured"} >= {point.value for point in high}


def test_the_top_says_what_mlflow_has(page: Tab, recorded: tuple[Path, dict[str, str]]) -> None:
    words = page.evaluate("document.getElementById('now').innerText")
    second = tracking.client().get_run(recorded[1]["second"]).data.metrics
    assert f"{second['production_average_precision']:.3f}" in words
    frame = newest_record().windows  # type: ignore[union-attr]
    whole = frame[(frame["slice"] == "") & (frame["metric"] == "average_precision")]
    assert f"{whole[whole['measured']]['value'].iloc[-1]:.3f}" in words
    assert f"{whole['estimate'].iloc[-1]:.3f}" in words
    assert "1 of 3 columns, not the data as a whole: budget" in words
    assert "the last run failed" in words
    champion, challenger = page.evaluate("[...document.querySelectorAll('.fact p')].map((each) => each.innerText)")[
        0:7:4
    ]
    assert champion == "v20260101T000000Z" and challenger == "v20260202T000000Z waits"
    found = page.evaluate("dashboard.data.reigns.map((each) => [each.name, each.how])")
    assert found == [["a" * 12, "first seen"], ["v20260101T000000Z", "promote"]]


def test_a_slice_can_be_chosen(page: Tab) -> None:
    names = page.evaluate("[...document.getElementById('slice').options].map((each) => each.textContent)")
    assert names[0] == "all pairs" and "Zürich" in names
    choose(page, "slice", str(names.index("Zürich")))
    frame = newest_record().windows  # type: ignore[union-attr]
    frame = frame[(frame["value_of"] == "Zürich") & (frame["metric"] == "average_precision") & frame["value"].notna()]
    drawn = [row["value"] for row in rows(page, "live", "points") if row["series"] == "measured"]
    assert drawn == [round(value, 4) for value in frame["value"]]
    assert "held-out rows" not in {row["series"] for row in rows(page, "live", "points")}
    assert page.evaluate("document.getElementById('live-title').textContent") == "average precision, city: Zürich"


def test_a_span_is_for_all_charts(page: Tab) -> None:
    before = len(rows(page, "live", "points"))
    assert len(rows(page, "candidates", "differences")) == 2 and len(rows(page, "runs", "points")) == 8
    choose(page, "span", "30")
    assert len(rows(page, "candidates", "differences")) == 1
    assert 0 < len(rows(page, "live", "points")) < before
    left = page.evaluate("dashboard.data.made - 30 * 86400000")
    assert all(row["t"] >= left for row in rows(page, "runs", "points"))


def test_a_candidates_difference_with_its_margin(page: Tab, recorded: tuple[Path, dict[str, str]]) -> None:
    for metric, sign in (("average_precision", 1), ("recall", -1)):
        choose(page, "difference", metric)
        metrics = tracking.client().get_run(recorded[1]["retrain"]).data.metrics
        row = next(row for row in rows(page, "candidates", "differences") if row["verdict"] == "promote")
        assert row["value"] == metrics[f"difference_{metric}"]
        assert (row["low"], row["high"]) == tuple(metrics[f"difference_{metric}_{end}"] for end in ("low", "high"))
        assert row["margin"] == sign * metrics[f"difference_{metric}_margin"]


def test_what_ran_how_long_and_why_it_failed(page: Tab) -> None:
    choose(page, "pipeline", "evaluate")
    assert {(row["step"], row["seconds"]) for row in rows(page, "steps", "newest")} == {
        ("ingest", 1.5),
        ("evaluate", 9.25),
    }
    assert {row["value"] for row in rows(page, "rows", "points")} == {12_000}
    failed = [row for row in rows(page, "runs", "points") if row["status"] == "FAILED"]
    assert len(failed) == 1 and failed[0]["reason"].startswith("validate: </script>")


def test_each_mark_leads_to_its_run(page: Tab, recorded: tuple[Path, dict[str, str]]) -> None:
    def links(chart: str) -> set[str]:
        """Where a click on each mark leads."""
        return set(
            page.evaluate(
                f"""(async () => {{
                    const found = [];
                    HTMLAnchorElement.prototype.dispatchEvent = function () {{ found.push(this.href); }};
                    for (const mark of document.querySelectorAll('#{chart} svg path, #{chart} svg text'))
                        mark.dispatchEvent(new MouseEvent('click', {{ bubbles: true }}));
                    await new Promise((done) => setTimeout(done, 200));
                    delete HTMLAnchorElement.prototype.dispatchEvent;
                    return found;
                }})()"""
            )
        )

    ids = recorded[1]
    for chart, names in (
        ("live", ("observe", "second", "promote")),
        ("candidates", ("retrain", "hold")),
        ("runs", tuple(ids)),
    ):
        found = links(chart)
        for name in names:
            assert any(link.endswith(f"/runs/{ids[name]}") for link in found), (chart, name, found)
    assert all(link.endswith(f"/runs/{ids['monitor']}/artifacts/drift.html") for link in links("drift"))


def test_texts_of_the_records_are_texts(page: Tab) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('img, b').length") == 0
    assert "onerror" in page.evaluate("document.body.innerText")
    assert "\u202e" not in page.evaluate("document.documentElement.textContent")
    names = page.evaluate("[...document.getElementById('slice').options].map((each) => each.textContent)")
    hostile = next(name for name in names if "onerror" in name)
    choose(page, "slice", str(names.index(hostile)))
    assert page.evaluate("document.getElementById('live-title').textContent").endswith(hostile)
    # and what came through could not run
    page.evaluate(
        "const script = document.createElement('script');"
        "script.textContent = 'window.hacked = 2'; document.body.append(script)"
    )
    assert page.evaluate("window.hacked") is None
    assert HOSTILE not in page.evaluate("document.documentElement.outerHTML")


def test_on_paper_the_choices_are_said_and_what_is_folded_is_open(page: Tab) -> None:
    page.call("Emulation.setEmulatedMedia", media="print")
    drawn = "[...document.querySelectorAll('select')].every((each) => each.offsetHeight > 0)"
    plain = "[...document.querySelectorAll('select')].every((each) => getComputedStyle(each).appearance === 'none')"
    assert page.evaluate(drawn) and page.evaluate(plain)
    page.call("Emulation.setEmulatedMedia", media="")
    unfolded = "[...document.querySelectorAll('details')].map((each) => each.open)"
    before = page.evaluate(unfolded)
    assert False in before
    page.evaluate("void dispatchEvent(new Event('beforeprint'))")
    assert set(page.evaluate(unfolded)) == {True}
    page.evaluate("void dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(unfolded) == before


def test_it_can_be_printed(page: Tab, tmp_path: Path) -> None:
    page.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "page.pdf").stat().st_size > 20_000


@pytest.mark.parametrize("runs", [0, 1])
def test_with_no_run_and_with_one(browser: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    from tests.dashboard_fixtures import OLD, holdout, record_run

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracking.client.cache_clear()
    for _ in range(runs):
        record_run("evaluate", 1, **holdout(0.8, OLD))
    path = write_dashboard(tmp_path)
    tracking.client.cache_clear()
    browser.errors.clear()
    browser.open(path.as_uri(), ready=DRAWN)
    assert browser.errors == []
    words = browser.evaluate("document.body.innerText")
    assert ("No run is recorded yet." in words) == (runs == 0)
    assert ("All is well" in words and "0.805" in words) == (runs == 1)
    assert "No drift was measured in this span." in words
    for control in ("span", "metric"):
        options = browser.evaluate(f"[...document.getElementById('{control}').options].map((each) => each.value)")
        choose(browser, control, options[0])
    assert browser.errors == []


def test_it_is_served_as_it_is_written(browser: Tab, recorded: tuple[Path, dict[str, str]]) -> None:
    from matchmaking.reporting.dashboard import records
    from matchmaking.reporting.dashboard.server import make_server

    server = make_server(records.read, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        browser.errors.clear()
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/", ready=DRAWN)
        assert browser.errors == []
        assert len(rows(browser, "runs", "points")) == 8
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
