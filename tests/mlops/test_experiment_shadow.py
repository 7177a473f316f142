"""`mlops experiment shadow`: generated logs, real models whose difference is known, and what may be wrong with them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from matchmaking.experiments.shadow import CANNOT
from matchmaking.model import production
from mlops.cli.app import app
from tests.browser import chromium
from tests.exposure_fixtures import write
from tests.shadow_fixtures import run_of, shadow_lines, shifted

SHIFT = 1.0


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [*map(str, args)], env={"COLUMNS": "100"})


@pytest.fixture(scope="module")
def logs(incumbent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 days of predictions and of the outcomes that have come by their end, as the command makes them."""
    folder = tmp_path_factory.mktemp("logs")
    done = call(
        *("data", "generate-logs", "--out", folder, "--model", incumbent, "--days", 60, "--volume", 40),
        *("--until", "2026-03-01", "--delay", 10),
    )
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def challenger(incumbent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shifted(incumbent, tmp_path_factory.mktemp("shifted") / "challenger", SHIFT)


def read(folder: Path) -> pd.DataFrame:
    return pd.concat(map(pd.read_parquet, sorted(folder.glob("*.parquet"))), ignore_index=True)


def shadow(champion: Path, challenger: Path, predictions: Path, out: Path, *more: object) -> Any:
    return call(
        *("experiment", "shadow", "--champion", champion, "--challenger", challenger),
        *("--predictions", predictions, "--out", out, *more),
    )


def test_a_shift_whose_answer_is_known(incumbent: Path, challenger: Path, logs: Path, tmp_path: Path) -> None:
    done = shadow(incumbent, challenger, logs / "predictions", tmp_path, "--outcomes", logs / "outcomes")
    assert done.exit_code == 0, done.output
    found, given = run_of(tmp_path), read(logs / "predictions")
    # a logit that is larger by 1 crosses 0 from between -1 and 0
    more = given["probability"].between(1 / (1 + np.exp(SHIFT)), 0.5, inclusive="left")
    assert more.sum() > 20
    for row in found["decisions"]:
        part = given if not row["slice"] else given[given[row["slice"]] == row["value_of"]]
        assert (row["pairs"], row["champion_only"]) == (len(part), 0)
        assert (row["challenger_only"], row["both"]) == (more[part.index].sum(), (part["probability"] >= 0.5).sum())
        assert row["low"] < row["different"] < row["high"]
    assert {row["slice"] for row in found["decisions"]} == {"", "case_type", "location", "preferred_language"}
    # every pair moved, so the furthest apart are those that a shift moves most: next to logits of -1/2 and 1/2
    for row in found["examples"]:
        logit = np.log(row["champion"] / (1 - row["champion"]))
        assert row["challenger"] == pytest.approx(1 / (1 + np.exp(-logit - SHIFT)), abs=1e-5)
    came = given[["pair_id"]].merge(read(logs / "outcomes"), on="pair_id", how="left")["match"]
    outcomes = {row["decision"]: row for row in found["outcomes"]}
    assert outcomes["challenger only"]["known"] == (more & came.notna()).sum()
    assert outcomes["challenger only"]["matches"] == came[more].sum()
    assert found["known"] == came.notna().sum() < len(given)
    assert found["logged"] | {"largest": 0} == {
        "pairs": len(given), "different": 0, "largest": 0, "decisions": 0, "rounded": False,
    }  # fmt: skip
    assert found["contract"]["passed"] and found["requests"] is None and found["unit"] == "case"
    by = {(row["model"], row["recommended"]): row for row in found["calibration"]}
    assert by["challenger", True]["gap"] > by["champion", True]["gap"]
    assert found["cannot"] == CANNOT
    said = " ".join(done.output.split())
    assert found["headline"] in said and CANNOT in said and "Kannada" in said


def test_without_outcomes_it_says_so(incumbent: Path, challenger: Path, logs: Path, tmp_path: Path) -> None:
    done = shadow(incumbent, challenger, logs / "predictions", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert found == run_of(tmp_path)
    assert (found["known"], found["outcomes"], found["calibration"], found["brier"]) == (0, [], [], {})
    page = (tmp_path / "shadow.html").read_text()
    assert "No outcome is known" in page and CANNOT.replace("'", "&#39;") in page


def test_exposures_with_failures(incumbent: Path, challenger: Path, logs: Path, tmp_path: Path) -> None:
    models = {
        name: production.hashes(folder)[production.MODEL]
        for name, folder in (("champion", incumbent), ("challenger", challenger))
    }
    requests: list[str] = []
    for number in range(400):
        status = "502" if number % 40 == 0 else "504" if number % 40 == 1 else "200"
        requests += shadow_lines(models, f"{number:032x}", unit=f"client-{number // 4}", challenger_status=status)
    requests += shadow_lines(models, "a" * 32, status="500")  # the champion's failure
    requests += shadow_lines(models, "b" * 32)[:1]  # the challenger's line was lost
    requests += shadow_lines({name: "c" * 64 for name in models}, "c" * 32)
    requests += shadow_lines(models, "d" * 32, experiment="other", challenger_ms=9_999.0)
    log = write(tmp_path, "exposures.jsonl", *requests)
    asked = ("--exposures", log, "--name", "ranking-1")
    done = shadow(incumbent, challenger, logs / "predictions", tmp_path / "out", *asked)
    assert done.exit_code == 0, done.output
    found = run_of(tmp_path / "out")
    assert found["requests"]["total"] == 402
    lost = found["requests"]["failed"]["challenger"]
    assert (lost["failed"], lost["asked"]) == (21, 401)
    assert lost["low"] < lost["share"] == 21 / 401 < lost["high"]
    assert found["requests"]["failed"]["champion"]["failed"] == 1
    counts = {(row["champion"], row["challenger"]): row["requests"] for row in found["requests"]["statuses"]}
    assert counts == {(200, 200): 380, (200, 502): 10, (200, 504): 10, (500, 200): 1, (200, 0): 1}
    assert [row["p99"] for row in found["requests"]["latency"]] == [40.0, 60.0]
    assert found["requests"]["ratio"] == pytest.approx(1.5)
    assert {"code": "other-model", "count": 2, "examples": ["c" * 32] * 2} in found["findings"]
    assert "failed 5.24 % of the 401 requests" in done.output
    # no line of these two: the wrong name is no run without failures
    done = shadow(incumbent, challenger, logs / "predictions", tmp_path / "out", "--exposures", log, "--name", "typo")
    assert done.exit_code != 0 and "none of a shadow run of these two models" in str(done.exception)


def test_clients_are_known_where_a_pair_is_a_request(
    incumbent: Path, challenger: Path, logs: Path, tmp_path: Path
) -> None:
    models = {
        name: production.hashes(folder)[production.MODEL]
        for name, folder in (("champion", incumbent), ("challenger", challenger))
    }
    pairs = read(logs / "predictions").head(300).reset_index(drop=True)
    pairs["pair_id"] = [f"{number:032x}" for number in range(len(pairs))]
    pairs.to_parquet(tmp_path / "predictions.parquet")
    log = write(
        tmp_path,
        "exposures.jsonl",
        *(
            line
            for number, one in enumerate(pairs["pair_id"])
            for line in shadow_lines(models, one, unit=f"client-{number // 50}")
        ),
    )
    shadow(incumbent, challenger, tmp_path / "predictions.parquet", tmp_path / "out", "--exposures", log)
    found = run_of(tmp_path / "out")
    assert (found["unit"], found["decisions"][0]["clients"]) == ("client", 6)


def test_what_the_log_says_of_the_champion_otherwise_is_told(
    incumbent: Path, challenger: Path, logs: Path, tmp_path: Path
) -> None:
    pairs = read(logs / "predictions")
    pairs.loc[:9, "probability"] = 1 - pairs.loc[:9, "probability"]
    pairs.loc[10, "probability"] = pairs.loc[10, "probability"] * (1 - 1e-7)
    pairs.loc[20:24, "model"] = "f" * 64
    pairs.to_parquet(tmp_path / "predictions.parquet")
    done = shadow(incumbent, challenger, tmp_path / "predictions.parquet", tmp_path / "out")
    found = run_of(tmp_path / "out")
    assert (found["logged"]["different"], found["logged"]["decisions"]) == (10, 10)
    assert found["others"] == {"f" * 64: 5}
    said = " ".join(done.output.split())
    assert "are not those that its files give: 10 of" in said and "5 pairs were scored by other models" in said
    # the answer's four decimals are no other model
    pairs = read(logs / "predictions")
    pairs["probability"] = pairs["probability"].round(4)
    pairs.to_parquet(tmp_path / "predictions.parquet")
    done = shadow(incumbent, challenger, tmp_path / "predictions.parquet", tmp_path / "out")
    assert run_of(tmp_path / "out")["logged"]["rounded"] and "rounded to four decimals" in done.output


def test_a_challenger_that_cannot_be_served_is_told_and_never_run(incumbent: Path, logs: Path, tmp_path: Path) -> None:
    hostile, ran = tmp_path / "hostile", tmp_path / "ran"
    shutil.copytree(incumbent, hostile)
    (hostile / production.SCALER).write_bytes(pickle.dumps(Bomb(ran)))
    done = shadow(incumbent, hostile, logs / "predictions", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = run_of(tmp_path / "out")
    assert not ran.exists()
    failed = {one["name"] for one in found["contract"]["checks"] if not one["passed"]}
    assert {"encoder and scaler", "loads"} <= failed
    assert "The challenger can't score the pairs" in done.output and found["decisions"][0]["pairs"] == 0
    # a champion of that kind is an error
    done = shadow(hostile, incumbent, logs / "predictions", tmp_path / "out")
    assert done.exit_code != 0 and not ran.exists()


def test_other_encoders_are_a_failure_of_the_contract(incumbent: Path, logs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(incumbent, other)
    encoders = production.read_encoders(other)
    encoders.scaler.mean_[0] += 0.5
    production.write_encoders(other, encoders)
    done = shadow(incumbent, other, logs / "predictions", tmp_path / "out")
    found = run_of(tmp_path / "out")
    assert not found["contract"]["passed"] and "can't serve the challenger: encoder and scaler" in done.output
    # it is compared nevertheless, by its own files
    assert found["decisions"][0]["pairs"] == len(read(logs / "predictions"))


def test_the_page_in_a_browser(incumbent: Path, challenger: Path, logs: Path, tmp_path: Path) -> None:
    pairs = read(logs / "predictions")
    pairs.loc[pairs["case_type"] == "Tax", "case_type"] = "<script>document.title='ran'</script>"
    pairs.to_parquet(tmp_path / "predictions.parquet")
    shadow(incumbent, challenger, tmp_path / "predictions.parquet", tmp_path, "--outcomes", logs / "outcomes")
    with chromium() as tab:
        for width in (1200, 400):
            address = (tmp_path / "shadow.html").as_uri()
            tab.open(address, width=width, ready="document.images.length && document.images[0].complete")
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert tab.evaluate("document.title") == "shadow run"
            assert tab.evaluate("document.images[0].naturalWidth") == 800
            assert tab.evaluate("document.querySelectorAll('h2').length") == 4
        assert not tab.errors
        assert not [one for one in tab.requested if not one.startswith(("data:", address))]


def test_wrong_options(incumbent: Path, logs: Path, tmp_path: Path) -> None:
    done = shadow(incumbent, incumbent, logs / "predictions", tmp_path, "--name", "ranking-1")
    assert "give --exposures" in str(done.exception)
    (tmp_path / "none").mkdir()
    for champion, challenger in ((tmp_path / "none", incumbent), (incumbent, tmp_path / "none")):
        done = shadow(champion, challenger, logs / "predictions", tmp_path)
        assert "there is no model" in str(done.exception)
