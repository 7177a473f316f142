"""Categories and columns that do something where they are shown raw, through real runs to all that people look at."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.hostile import COMMENT, ESCAPES, HANDLER, MARKDOWN, MATHS, RAN, SCRIPT, hostile_pairs

Mlops = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def work(mlops: Mlops, incumbent: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Path]]:
    """The three pipelines and a failing one: the work folder, all that was printed, and each run's folder."""
    folder = tmp_path_factory.mktemp("work")
    data, current = folder / f"{HANDLER}.csv", folder / "current.csv"
    hostile_pairs(2_000).to_csv(data, index=False)
    hostile_pairs(1_000, seed=2).query("city != @HANDLER").to_csv(current, index=False)
    places = ("--production", incumbent, "--work-dir", folder)
    done = mlops(
        *("run", "all", "--data", data, "--current", current, *places, "--verbose"),
        *("--algorithm", "dense", "--epochs", 2),
    )
    assert done.returncode == 0, done.stderr
    runs = {path.name.split("_")[0]: path for path in (folder / "runs").iterdir()}
    hostile_pairs(200).drop(columns="rating").to_csv(current, index=False)
    failed = mlops("run", "monitor", "--data", current, *places)
    assert failed.returncode == 2
    (runs["failed"],) = set((folder / "runs").iterdir()) - set(runs.values())
    # what is told of them afterwards
    told = [mlops("summary", *flags, run / "summary.json") for run in runs.values() for flags in ((), ("--markdown",))]
    return folder, "".join(each.stdout + each.stderr for each in (done, failed, *told)), runs


class Elements(HTMLParser):
    """The elements of a page, and what of its text is script."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.scripts and self.cdata_elem == "script":
            self.scripts[-1] += data


def elements(page: str) -> Elements:
    parser = Elements()
    parser.feed(page)
    return parser


def html_pages(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file() and (path.suffix == ".html" or path.name in ("report", "drift_report"))
    ]
    return [path for path in found if "<html" in path.read_text()[:3_000]]


def test_no_page_has_an_element_of_the_data(work: Any) -> None:
    _, _, runs = work
    pages = [page for run in runs.values() for page in html_pages(run)]
    assert {page.name for page in pages} == {"report.html", "drift.html", "report", "drift_report"}
    for page in pages:
        text = page.read_text()
        assert not [raw for raw in (SCRIPT, HANDLER, COMMENT) if raw in text], page
        parsed = elements(text)
        for tag, attributes in parsed.found:
            assert not {"onerror", "onload", "onclick"} & set(attributes), page
            assert tag != "img" or str(attributes["src"]).startswith("data:"), page
        assert not [script for script in parsed.scripts if script.startswith(f"document.title='{RAN}'")], page
    # it is there to be read all the same
    report = (runs["retrain"] / "report.html").read_text()
    assert "&lt;/script&gt;&lt;script&gt;document.title=" in report
    assert "\\x1b[2J" in report


def test_markdown_shows_texts(work: Any) -> None:
    """What KFP's UI and a page of CI show: `compare`'s and the report's pages, and the summaries."""
    _, _, runs = work
    pages = [
        path for run in runs.values() for name in ("compare/verdict", "report/summary") for path in run.rglob(name)
    ]
    assert len(pages) >= 4
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    for page in pages:
        text = page.read_text()
        assert "\x1b" not in text and "\u202e" not in text
        tags = {tag for tag, _ in elements(parser.render(text)).found}
        assert tags <= {"h1", "h2", "p", "ul", "li", "code", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    (decided,) = runs["retrain"].rglob("compare/verdict")
    names = {row[0] for row in table_rows(parser.render(decided.read_text()))}
    assert {f"recall[location={SCRIPT}]", f"recall[location={MARKDOWN}]"} <= names


def table_rows(page: str) -> list[list[str]]:
    class Rows(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[list[str]] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag == "tr":
                self.rows.append([])
            elif tag in ("td", "th"):
                self.rows[-1].append("")

        def handle_data(self, data: str) -> None:
            if self.rows and self.rows[-1]:
                self.rows[-1][-1] += data.removesuffix("\n")

    parser = Rows()
    parser.feed(page)
    return parser.rows


def test_nothing_moves_the_terminal(work: Any) -> None:
    """Nor does who looks at a file there."""
    _, printed, runs = work
    files = [path for run in runs.values() for name in ("run.log", "report.txt") for path in run.rglob(name)]
    assert len([path for path in files if path.name == "run.log"]) == 4
    for text in (printed, *(path.read_text() for path in files)):
        assert all(each.isprintable() or each == "\n" for each in text)
    assert "\\x1b]0;OWNED\\x07" in printed


def test_json_and_mlflow_hold_what_came(work: Any) -> None:
    folder, _, runs = work
    unseen = json.loads((runs["retrain"] / "summary.json").read_text())["data"]["unseen"]["city"]
    assert {SCRIPT, HANDLER, MARKDOWN, ESCAPES, MATHS} == set(unseen)

    from mlflow import MlflowClient

    from matchmaking.base.settings import EXPERIMENT

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (failed,) = client.search_runs([experiment.experiment_id], "attributes.status = 'FAILED'")
    # MLflow shows the note as Markdown
    note = failed.data.tags["mlflow.note.content"]
    assert "column 'rating' is missing" in note
    assert not {"img", "script", "a"} & {tag for tag, _ in elements(MarkdownIt().render(note)).found}
    artifacts = [path for path in (folder / "mlflow-artifacts").rglob("*.html")]
    assert {path.name for path in artifacts} == {"report.html", "drift.html"}
    for path in artifacts:
        assert not [raw for raw in (SCRIPT, HANDLER, COMMENT) if raw in path.read_text()]


def test_no_script_of_the_data_runs_in_a_browser(work: Any, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium: that the pages run no script of the data was read off them, not tried in a browser")
    _, _, runs = work
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    options = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    for name, page in (("retrain", "report.html"), ("monitor", "report.html"), ("monitor", "drift.html")):
        address = (runs[name] / page).as_uri()
        done = subprocess.run([chromium, *options, address], capture_output=True, text=True, timeout=180, check=True)
        assert f"<title>{RAN}" not in done.stdout
        # it was really drawn
        assert ("plotly" if page == "drift.html" else "<h2>Where this comes from</h2>") in done.stdout
