"""The reports lead with the outcome, show every number, and let nothing from the data through as markup."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from matchmaking.base.escape import visible
from matchmaking.evidence.metrics import SCALARS
from matchmaking.reporting import contents
from matchmaking.reporting import html as as_html
from matchmaking.reporting import markdown as as_markdown
from matchmaking.reporting import terminal as as_table
from matchmaking.reporting import text as as_text

HOSTILE = '<script>alert("x")</script>|`[a](http://evil.example)\x1b[2J'
SHA = {"encoder.pkl": "a" * 64, "lawyer_match_model.h5": "b" * 64, "scaler.pkl": "c" * 64}


def metrics(slices: bool = True, **changes: float | None) -> dict[str, Any]:
    values: dict[str, Any] = {name: 0.9 for name in SCALARS} | {"rows": 2_400, "positives": 278}
    values |= {"confusion": {"tn": 2_027, "fp": 95, "fn": 33, "tp": 245}}
    values |= changes
    groups = {"Tax": (400, 60), "Fraud": (300, 8), HOSTILE: (20, 1)}
    values["slices"] = {
        "case_type": {
            name: {
                "rows": rows,
                "positives": positives,
                "recall": 0.5,
                "precision": 0.25,
                "f1": None,
                "roc_auc": 0.75,
            }
            for name, (rows, positives) in groups.items()
        }
    }
    return values


def drift(**changes: Any) -> dict[str, Any]:
    measured = {"method": "wasserstein", "statistic": 0.3, "threshold": 0.1}
    columns = [
        {"column": "budget", "kind": "feature", **measured, "drifted": True},
        {"column": "match", "kind": "target", **dict.fromkeys(measured), "drifted": False},
    ]
    known = {
        "drifted": False,
        "drifted_columns": ["budget"],
        "reasons": [],
        "notes": ["a note"],
        "rule": "half",
    }
    rows = {"reference": 12_000, "current": 900}
    return {
        **known,
        "rows": rows,
        "self_comparison": False,
        "share_drifted": 0.1,
        "columns": columns,
        **changes,
    }


def summary(pipeline: str = "retrain", **changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "pipeline": pipeline,
        "run_name": f"{pipeline}_20260105T060000Z",
        "status": "succeeded",
        "dataset_version": "0123456789abcdef0123456789abcdef",
        "code_version": "1.2.3",
        "seed": 7,
        "metrics": {"production": None, "candidate": None},
        "verdict": None,
        "reasons": [],
        "drift": None,
        "drifted_columns": None,
        "production_sha256": {"before": SHA, "after": SHA},
        "candidate_uri": None,
        "data": None,
        "steps": [{"step": "train", "wall_seconds": 14.25, "import_seconds": 5.5, "peak_mb": 612.3}],
        "error": None,
    }
    return {**known, **changes}


def retrained(**changes: Any) -> dict[str, Any]:
    both = {
        "production": metrics(),
        "candidate": metrics(roc_auc=0.95, brier=0.8, log_loss=0.95, ece=0.90001, recall=None),
    }
    return summary(**{"metrics": both, "verdict": "promote", "reasons": ["it improves"], **changes})


MONITORED = summary("monitor", drift=drift(), drifted_columns=["budget"])
EVALUATED = summary("evaluate", metrics={"production": metrics(), "candidate": None})
BOOTSTRAPPED = summary(verdict="bootstrap", metrics={"production": None, "candidate": metrics()}, production_sha256={})
FAILED = {"pipeline": "retrain", "status": "FAILED", "error": "data.csv: column budget is missing"}
RUNS = [retrained(), MONITORED, EVALUATED, BOOTSTRAPPED, FAILED]


class Page(HTMLParser):
    """The tags, their attributes and the text of a page; fails on a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (retrained(), "The candidate is better than production: it is packaged and can be promoted."),
        (
            retrained(verdict="hold"),
            "The candidate is not shown to be better than production: production stays.",
        ),
        (BOOTSTRAPPED, "There was no production model to compare with: this run trained a first one."),
        (
            EVALUATED,
            "Production reaches ROC AUC 0.9000 and f1 0.9000 on 2,400 held-out pairs, 278 of them matches.",
        ),
        (MONITORED, "The data as a whole has not drifted; these columns have: budget."),
        (
            summary("monitor", drift=drift(drifted=True, reasons=["target drifted"], drifted_columns=["match"])),
            "The data has drifted (target drifted): match.",
        ),
        (
            summary("monitor", drift=drift(drifted_columns=[], self_comparison=True)),
            "The data has not drifted: no column is beyond its threshold. "
            "No current data was given, so two samples of the reference were compared with each other.",
        ),
        (FAILED, "The retrain run failed: data.csv: column budget is missing."),
    ],
)
def test_the_outcome_is_said_first_in_every_report(run: dict[str, Any], sentence: str) -> None:
    assert contents.headline(run) == sentence
    text = " ".join(as_text.text_report(run).split())
    assert re.match(r"LegalAid Connect matchmaking: \w+ =+ " + re.escape(sentence), text)
    assert as_markdown.markdown_report(run).startswith("# " + sentence)
    page = Page(as_html.html_report(run)).text
    assert sentence in page[: page.index("Where this comes from")]


def test_better_and_worse_follow_each_metrics_direction() -> None:
    marks = {row.name: row.mark for row in contents.metric_rows(retrained())}
    assert marks == {
        "accuracy": "same",
        "precision": "same",
        "recall": "",  # the candidate has none
        "f1": "same",
        "roc_auc": "better",
        "average_precision": "same",
        "brier": "better",
        "log_loss": "worse",
        "ece": "same",  # in the digits shown
    }
    lines = {line[:24].strip(): line.split() for line in as_text.text_report(retrained()).splitlines()}
    assert lines["ROC AUC"][2:] == ["0.9000", "0.9500", "+0.0500", "better"]
    assert lines["Brier score"][2:] == ["0.9000", "0.8000", "-0.1000", "better"]
    assert lines["recall"][1:] == ["0.9000", "n/a"]


@pytest.mark.parametrize("run", RUNS)
def test_plain_text_is_narrow_and_printable(run: dict[str, Any]) -> None:
    long = "s3://bucket/" + "x" * 150
    text = as_text.text_report({**run, "reasons": [HOSTILE * 3], "candidate_uri": long})
    assert max(map(len, text.splitlines())) <= 100
    assert all(character.isprintable() for line in text.split("\n") for character in line)


@pytest.mark.parametrize("run", RUNS)
def test_the_page_needs_nothing_from_outside(run: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "roc.png").write_bytes(b"\x89PNG not really")
    page = Page(as_html.html_report(run, None, "# Decision\n\n| a |\n| --- |\n| b |\n", [tmp_path / "roc.png"]))
    assert not {"script", "link", "a", "iframe", "object"} & set(page.tags)
    assert page.tags.count("img") == 1
    sources = [value or "" for name, value in page.attributes if name in {"src", "href", "srcset", "data"}]
    assert [source[:22] for source in sources] == ["data:image/png;base64,"]


def test_nothing_from_the_data_becomes_markup() -> None:
    data = {
        "rows": 10,
        "positives": 2,
        "unseen": {"city": {HOSTILE: 3}},
        "extra_columns": [HOSTILE],
        "duplicates": 0,
    }
    run = retrained(data=data, reasons=[HOSTILE], run_name=HOSTILE, candidate_uri=HOSTILE)
    decision = f"{HOSTILE}\n\n![i](http://evil.example/i.png) <http://evil.example> [b][c]\n\n[c]: http://evil.example"
    page = Page(as_html.html_report(run, None, decision))
    assert not {"script", "a", "img"} & set(page.tags)
    assert page.text.count('<script>alert("x")</script>') >= 6
    for markdown in (as_markdown.markdown_report(run), as_markdown.markdown_report({**FAILED, "error": HOSTILE})):
        assert "<" not in markdown.replace("&lt;", "")
        assert not re.search(r"(?<!\\)\[a(?<!\\)\]\(", markdown)
        assert "\x1b" not in markdown


def test_credentials_in_an_address_are_not_shown() -> None:
    run = retrained(candidate_uri="https://user:secret@host/v1?Signature=qwertz")
    for text in (as_text.text_report(run), as_html.html_report(run), as_markdown.markdown_report(run)):
        assert "secret" not in text and "qwertz" not in text


def test_slices_are_sorted_by_size_and_small_ones_flagged() -> None:
    evaluation = {"production": metrics(), "candidate": metrics(), "curves": {}}
    rows = contents.slice_rows({"production": metrics(), "candidate": metrics()})["case_type"]
    assert [(row.value, row.rows, row.positives, row.few) for row in rows] == [
        ("Tax", 400, 60, False),
        ("Fraud", 300, 8, True),
        (visible(HOSTILE), 20, 1, True),
    ]
    assert rows[0].values == [[0.5, 0.5], [0.25, 0.25], [None, None], [0.75, 0.75]]
    page = as_html.html_report(retrained(metrics={}), evaluation)
    assert page.count('class="few"') == 2 and page.count("few matches") == 2
    text = as_text.text_report(retrained(metrics={}), evaluation)
    assert re.search(r"Fraud +300 +8\* +0\.500 / 0\.500", text) and re.search(r"Tax +400 +60 ", text)


def test_a_slice_only_one_model_has_seen_is_shown() -> None:
    candidate = metrics()
    del candidate["slices"]["case_type"]["Fraud"]
    rows = contents.slice_rows({"production": metrics(), "candidate": candidate})["case_type"]
    assert rows[1].values[0] == [0.5, None]


@pytest.mark.parametrize(
    ("run", "models"),
    [(retrained(), ["production", "candidate"]), (EVALUATED, ["production"]), (BOOTSTRAPPED, ["candidate"])],
)
def test_only_the_models_of_a_run_are_shown(run: dict[str, Any], models: list[str]) -> None:
    header = next(line for line in as_text.text_report(run).splitlines() if re.match(r" +(production|candidate)", line))
    assert header.split() == [*models, *(["difference"] if len(models) == 2 else [])]
    table = as_table.terminal_table(run)
    assert [column.header for column in table.columns][1 : 1 + len(models)] == models
    assert table.row_count == len(SCALARS)


def test_drift_is_shown_by_column() -> None:
    for text in (Page(as_html.html_report(MONITORED)).text, " ".join(as_text.text_report(MONITORED).split())):
        assert re.search(r"budget feature wasserstein 0\.3000 0\.1000 (yes|DRIFTED)", text)
        assert re.search(r"match target \W n/a n/a", text)
        assert "a note" in text
    assert "| budget | feature | 0.3000 | 0.1000 | **yes** |" in as_markdown.markdown_report(MONITORED)
    assert as_table.terminal_table(MONITORED).row_count == 2


def test_changed_production_files_are_shouted() -> None:
    after = {**SHA, "encoder.pkl": "f" * 64}
    changed = summary("evaluate", production_sha256={"before": SHA, "after": after})
    assert "WARNING: production's files changed" in contents.headline(changed)
    assert "CHANGED DURING THE RUN" in as_text.text_report(changed)
    page = as_html.html_report(changed)
    assert "changed during the run" in page and "f" * 64 in page and 'class="outcome bad"' in page
    same = as_html.html_report(EVALUATED)
    assert "the same before and after" in same and "changed during" not in same


def test_the_page_says_where_it_comes_from() -> None:
    page = Page(as_html.html_report(retrained())).text
    for value in (
        "retrain_20260105T060000Z",
        "0123456789abcdef0123456789abcdef",
        "1.2.3",
        "a" * 64,
        "train 14.2 5.5 612",
    ):
        assert value in page
    assert "seed 7" in page
    assert "seed 0" in Page(as_html.html_report(retrained(seed=0))).text


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_table.terminal_table(retrained()))
    lines = console.export_text().splitlines()
    assert len(lines) == 1 + 3 + len(SCALARS) + 1  # title, header, a line a metric, bottom: nothing wrapped
    assert any(re.search(r"log loss +│ +0\.9000 │ +0\.9500 │ +\+0\.0500 │ worse", line) for line in lines)


def test_warnings_are_in_every_report_of_a_run_without_a_verdict() -> None:
    """Those that a verdict's reasons tell are not told twice."""
    data = {"rows": 100, "positives": 12, "warnings": ["column 'city': 10 of 100 rows ... 'DELHI' 10 rows (Delhi?)"]}
    notes = ["score drift not measured: there is no production model to score the pairs", "a random sample"]
    found = {"pipeline": "monitor", "status": "succeeded", "data": data, "drift": {"drifted": False, "notes": notes}}
    told = [f"the data: {data['warnings'][0]}", notes[0]]
    assert contents.warnings(found) == told
    assert "(Delhi?)" in as_text.text_report(found)
    assert "Warning: the data: column 'city'" in as_markdown.markdown_report(found)
    assert contents.warnings({**found, "reasons": told[:1]}) == told[1:]


@pytest.mark.parametrize("white", ["\t", "\xa0", "\u200b"])
def test_a_group_whose_name_has_other_white_space_is_another(white: str) -> None:
    group = {"rows": 400, "positives": 60, **dict.fromkeys(("recall", "precision", "f1", "roc_auc"), 0.5)}
    model = {**metrics(), "slices": {"location": {"New Delhi": group, f"New{white}Delhi": group}}}
    shown = f"New{ascii(white)[1:-1]}Delhi"
    found = summary(metrics={"production": model, "candidate": None})
    for told in (as_text.text_report(found, {"production": model}), as_html.html_report(found, {"production": model})):
        assert told.count("New Delhi") == told.count(shown) == 1
