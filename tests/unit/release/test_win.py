"""A won experiment in the place of an offline `hold`: what it takes, and what the audit trail says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from matchmaking import tracking
from matchmaking.base.errors import InputError
from matchmaking.experiments import record
from matchmaking.experiments.definition import Definition
from matchmaking.model import production
from matchmaking.release import audit, check
from matchmaking.release.package import CONTRACT, DECISION, PACKAGED
from matchmaking.release.promote import apply
from tests.experiment_fixtures import record_earlier
from tests.promotion_fixtures import change_evidence, contents, cut_off, promote, quiet, refused, rollback, variant
from tests.webhook import Hook

NAME = "ranking-1"
REASON = "average_precision does not improve"
NUMBERS = {"difference": 0.031, "low": 0.011, "high": 0.052, "champion_clients": 1502.0, "challenger_clients": 1498.0}
# what MLflow keeps is read in one way; once with each kind of it is enough
ON_SQLITE = pytest.mark.parametrize("tracking_uri", ["sqlite"], indirect=True)
GUARDS = {"slices": {"case_type": ["Tax", "Fraud"]}}


@pytest.fixture(autouse=True)
def connected(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    tracking.client.cache_clear()
    yield
    for run in runs():
        tracking.client().delete_run(run.info.run_id)
    tracking.client.cache_clear()


def runs() -> list[Any]:
    home = tracking.client().get_experiment_by_name(record.EXPERIMENT)
    return list(tracking.client().search_runs([home.experiment_id])) if home else []


@pytest.fixture
def held(packages: list[str]) -> str:
    """A package that was compared with production and held."""
    change_evidence(packages[0], DECISION, verdict="hold", reasons=[REASON])
    return packages[0]


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., None]:
    """Keeps a report with an experiment, as `mlops experiment report` does, each a minute after the one before."""
    times = iter(f"20260401T00{minute:02}00Z" for minute in range(60))

    def keep(run_id: str, of: Definition, verdict: str = "better", day: int = 25, **values: Any) -> None:
        numbers = {"experiment": of.name, "sha256": of.sha256, "verdict": verdict, "day": day, "decided_on_day": 20}
        stamp = next(times)
        folder = tmp_path / f"report {stamp}"
        folder.mkdir()
        (folder / "experiment.json").write_text(json.dumps({**numbers, **NUMBERS, "guardrails": [], **values}))
        (folder / "experiment.html").write_text("<p>")
        record.keep(run_id, folder, stamp)

    return keep


def experiment(
    held: str, served: Path, recorded_by: Callable[[Any], str] = record_earlier, **values: Any
) -> tuple[str, Definition]:
    """A recorded experiment of the two; its run and its definition."""
    definition = Definition.model_validate(
        {
            "name": NAME,
            "hypothesis": "it finds more",
            "champion": production.hashes(served)[production.MODEL],
            "challenger": production.hashes(Path(held))[production.MODEL],
            "salt": NAME,
            "start": "2026-03-01T00:00:00Z",
            "effect": 0.01,
            "label_delay_days": 3,
            "planned_clients": 3_000,
            "planned_days": 30,
            **values,
        }
    )
    return recorded_by(definition), definition


def test_a_win_takes_the_place_of_a_hold_and_is_named(
    held: str, served: Path, report: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Hook()
    monkeypatch.setenv("MLOPS_NOTIFY_URLS", hook.url)
    run_id, definition = experiment(held, served)
    report(run_id, definition, "go on", day=12)
    # outcomes that were late to come; a later report reads all of it
    report(run_id, definition, "unreadable", day=24)
    report(run_id, definition)
    before = contents(served)
    with refused("its verdict is hold", REASON):
        promote(held, served)
    change = check.prepare_promotion(held, str(served), experiment=NAME, say=quiet)
    (line,) = [line for line in check.explain(change) if line.startswith("on evidence of")]
    said = (
        f"experiment {NAME} (sha256 {definition.sha256[:12]}, MLflow run {run_id}) found it better on day 20: "
        "match_rate +0.0310 (+0.0110 to +0.0520, 95 % on all days at once) of 1,502 and 1,498 clients, as of day 25"
    )
    assert line == f"on evidence of {said}"
    entry = apply(change, say=quiet)
    assert contents(served) == contents(Path(held)) != before
    (kept,) = audit.history(str(served)).entries
    assert kept == entry and kept.overridden == []
    assert kept.why == f"held offline: {REASON}"
    assert kept.experiment is not None and kept.experiment.report == "report-20260401T000200Z"
    found = audit.history(str(served)).as_dict()["entries"][0]["experiment"]
    assert (found["experiment"], found["sha256"], found["run_id"]) == (NAME, definition.sha256, run_id)
    assert {key: found[key] for key in NUMBERS} == NUMBERS
    assert said in hook.bodies[0]["message"]
    # production holds it: a retried step finds nothing to do, whatever its experiment says by now
    assert check.prepare_promotion(held, str(served), experiment=NAME, say=quiet).nothing
    back = rollback(served)
    assert contents(served) == before and back.experiment is None
    assert [each.action for each in audit.history(str(served)).entries] == ["promote", "rollback"]


def by_hand(run_id: str, name: str, value: str) -> None:
    tracking.client().set_tag(run_id, name, value)


def tag_alone(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of, "go on")
    by_hand(run_id, "experiment_verdict", "better")


def tag_without_a_report(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    by_hand(run_id, "experiment_verdict", "better")


def found_unreadable_later(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of)
    report(run_id, of, "unreadable", day=26)


def tag_put_back(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    found_unreadable_later(run_id, of, report, folder)
    by_hand(run_id, "experiment_verdict", "better")


def read_again_as_of_an_earlier_day(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of, "unreadable", day=26)
    report(run_id, of, day=25)


def harmful_until_pairs_were_left_out(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of, "harmful")
    report(run_id, of)


def another_definition_in_the_report(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of, sha256="0" * 64)


def another_experiments_report(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of, experiment="ranking-0")


def of_a_day_to_come(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    # the report was made on day 31
    report(run_id, of, day=32)


def labels_arrive_apart(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of, checks=[{"code": "labels-arrive-apart", "found": True, "stops": False, "said": "80 % and 60 %"}])


def no_numbers(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of, low=None)


def an_interval_with_zero(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of, low=-0.001)


def given_up(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of)
    record.end(of.name, "the gateway's assignment\nwas broken")


def a_torn_report(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of)
    (folder / "experiment.json").write_text('{"experiment":')
    tracking.client().log_artifact(run_id, str(folder / "experiment.json"), "report-20260401T000900Z")


def a_definition_exchanged(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    """Everything that MLflow lets one change, changed together."""
    other = of.model_copy(update={"effect": 0.001})
    (folder / "definition.json").write_text(other.canonical)
    tracking.client().log_artifact(run_id, str(folder / "definition.json"))
    by_hand(run_id, "experiment_sha256", other.sha256)
    report(run_id, other)


def a_definition_altered(run_id: str, of: Definition, report: Callable[..., None], folder: Path) -> None:
    report(run_id, of)
    (folder / "definition.json").write_text(of.model_copy(update={"effect": 0.001}).canonical)
    tracking.client().log_artifact(run_id, str(folder / "definition.json"))


@ON_SQLITE
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (tag_alone, ("has the tag 'better'", "says 'go on'")),
        (tag_without_a_report, ("has no report",)),
        (found_unreadable_later, ("its verdict is 'unreadable'",)),
        (tag_put_back, ("has the tag 'better'", "says 'unreadable'")),
        (read_again_as_of_an_earlier_day, ("ends with day 25", "day 26, which says 'unreadable'")),
        (harmful_until_pairs_were_left_out, ("contradicts itself", "'harmful'")),
        (another_definition_in_the_report, ("of another definition",)),
        (another_experiments_report, ("of another definition",)),
        (of_a_day_to_come, ("looks at day 32", "wasn't over", "without a later --until")),
        (labels_arrive_apart, ("labels-arrive-apart", "80 % and 60 %")),
        (no_numbers, ("lacks the numbers",)),
        (an_interval_with_zero, (r"within -0\.0010 and",)),
        (given_up, ("was ended by hand", "the gateway's assignment was broken")),
        (a_torn_report, ("experiment.json is damaged",)),
        (a_definition_exchanged, ("changed after it was recorded",)),
        (a_definition_altered, ("isn't the one that was recorded",)),
    ],
)
def test_what_isnt_evidence_is_refused_in_one_line_even_by_force(
    held: str, served: Path, report: Callable[..., None], tmp_path: Path, spoil: Callable[..., None], words: tuple[str]
) -> None:
    run_id, definition = experiment(held, served)
    spoil(run_id, definition, report, tmp_path)
    before = contents(served)
    for options in ({}, {"force": True, "reason": "all the same"}):
        with refused(f"experiment {NAME}|the definition of {NAME}", *words) as told:
            promote(held, served, experiment=NAME, **options)
        assert "\n" not in str(told.value)
    assert contents(served) == before
    assert not (served / ".mlops/audit.jsonl").exists()


@ON_SQLITE
def test_it_must_be_about_this_candidate_and_what_production_holds_now(
    held: str, packages: list[str], served: Path, incumbent: Path, report: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no experiment 'ranking-1' is recorded"):
        promote(held, served, experiment=NAME)
    report(*experiment(held, served))
    with refused(f"{NAME} is about another comparison: its challenger is", "the candidate is"):
        promote(packages[1], served, experiment=NAME)
    elsewhere = variant(incumbent, tmp_path / "elsewhere", "by hand")
    (served / production.MODEL).write_bytes((elsewhere / production.MODEL).read_bytes())
    with refused(f"{NAME} is about another comparison: its champion is", "production holds"):
        promote(held, served, experiment=NAME, force=True, reason="all the same")


@ON_SQLITE
def test_a_look_at_a_day_to_come_is_no_obstacle_to_the_honest_report_after_it(
    held: str, served: Path, report: Callable[..., None]
) -> None:
    run_id, definition = experiment(held, served)
    report(run_id, definition, "worse", day=40)
    report(run_id, definition, checks=[{"code": "bot", "found": True, "stops": False, "said": "1 client"}])
    entry = promote(held, served, experiment=NAME)
    assert entry.experiment is not None and entry.experiment.day == 25
    assert str(entry.experiment).endswith("noticed: bot")


@ON_SQLITE
def test_a_report_whose_upload_broke_off_is_passed_over(
    held: str, served: Path, report: Callable[..., None], tmp_path: Path
) -> None:
    run_id, definition = experiment(held, served)
    report(run_id, definition)
    (tmp_path / "experiment.html").write_text("<p>")
    tracking.client().log_artifact(run_id, str(tmp_path / "experiment.html"), "report-20260401T000900Z")
    assert promote(held, served, experiment=NAME).experiment is not None


@ON_SQLITE
def test_an_experiment_recorded_after_its_start_is_none(
    held: str, served: Path, report: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(record, "datetime", Earlier)
    report(*experiment(held, served, record.record, start="2026-01-02T00:00:00Z"))
    with refused("recorded after its start"):
        promote(held, served, experiment=NAME)


def test_the_recall_that_the_definition_guards_must_have_been_judged(
    held: str, served: Path, report: Callable[..., None]
) -> None:
    run_id, definition = experiment(held, served, guardrails=GUARDS)
    report(run_id, definition, guardrails=[{"name": "latency"}])
    with refused("judges the recall of none of the slices", "--pairs"):
        promote(held, served, experiment=NAME)
    report(run_id, definition, guardrails=[{"name": "latency"}, {"name": "recall case_type=Tax"}])
    entry = promote(held, served, experiment=NAME)
    assert str(entry.experiment).endswith("recall not judged in case_type=Fraud")


@ON_SQLITE
def test_a_win_answers_no_other_objection(
    held: str, served: Path, report: Callable[..., None], incumbent: Path, tmp_path: Path
) -> None:
    report(*experiment(held, served))
    change_evidence(held, DECISION, verdict="reject", reasons=["recall is clearly worse"])
    with refused("its verdict is reject", "an experiment takes the place of `hold` alone"):
        promote(held, served, experiment=NAME)
    change_evidence(held, DECISION, verdict="hold")
    change_evidence(held, CONTRACT, passed=False, checks=[{"name": "held-out rows", "passed": False}])
    with refused("could not serve", "held-out rows"):
        promote(held, served, experiment=NAME, force=True, reason="all the same")
    change_evidence(held, CONTRACT, passed=True)
    # what was compared offline was another production: harm would have been shown against that one
    manifest = Path(held) / "manifest.json"
    stale = {**json.loads(manifest.read_text())["compared_with"], production.MODEL: "0" * 64}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "compared_with": stale}))
    with refused("it was compared with 000000000000"):
        promote(held, served, experiment=NAME)
    assert not (served / ".mlops/audit.jsonl").exists()
    entry = promote(held, served, experiment=NAME, force=True, reason="known to be fine")
    assert entry.why == "known to be fine" and entry.experiment is not None
    assert "compared with" in entry.overridden[0]


@ON_SQLITE
def test_a_candidate_with_the_verdict_promote_is_held_to_its_experiment_too(
    packages: list[str], served: Path, report: Callable[..., None]
) -> None:
    run_id, definition = experiment(packages[0], served)
    report(run_id, definition, "worse")
    with refused("its verdict is 'worse'"):
        promote(packages[0], served, experiment=NAME)
    assert promote(packages[0], served).experiment is None


@ON_SQLITE
def test_a_change_that_was_cut_off_keeps_its_evidence(
    held: str, packages: list[str], served: Path, report: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    report(*experiment(held, served))
    cut_off(check.prepare_promotion(held, str(served), experiment=NAME, say=quiet), "production", monkeypatch)
    check.prepare_promotion(packages[1], str(served), say=quiet)
    (entry,) = audit.history(str(served)).entries
    assert entry.action == "abandoned" and entry.experiment is not None and entry.experiment.experiment == NAME


@ON_SQLITE
def test_without_mlflow_there_is_no_experiment_to_read(
    held: str, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI")
        with pytest.raises(InputError, match="no MLflow records here"):
            promote(held, served, experiment=NAME)


@ON_SQLITE
def test_lines_of_the_time_before_experiments_are_read(packages: list[str], served: Path) -> None:
    promote(packages[0], served)
    trail = served / audit.AUDIT
    line = json.loads(trail.read_text())
    assert line.pop("experiment") is None
    trail.write_text(json.dumps(line) + "\n")
    found = audit.history(str(served))
    assert not found.unreadable and found.entries[0].experiment is None
    rollback(served)


@ON_SQLITE
def test_what_is_rejected_is_not_packaged() -> None:
    assert {"promote", "bootstrap", "hold"} == PACKAGED
