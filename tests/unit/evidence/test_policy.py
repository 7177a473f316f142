"""The policy file: the default, what is laid over it, and what is refused."""

from pathlib import Path

import pytest

from matchmaking.base.errors import InputError
from matchmaking.evidence.policy import DEFAULT_POLICY, installed_policy, load_policy
from tests.decision_fixtures import POLICY


def test_the_default_policy_is_what_the_issue_asks_for() -> None:
    assert (POLICY.primary.metric, POLICY.primary.min_effect) == ("average_precision", 0.01)
    assert set(POLICY.guardrails.margins) == {
        "recall",
        "precision",
        "roc_auc",
        "brier",
        "log_loss",
        "calibration",
    }
    assert set(POLICY.guardrails.slices.columns) == {"location", "preferred_language", "case_type"}


def test_a_policy_is_laid_over_the_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("primary: {min_effect: 0.02}\nguardrails: {margins: {recall: 0.01, f1: 0.1}}\n")
    changed = load_policy(path)
    assert (changed.primary.min_effect, changed.primary.confidence) == (0.02, POLICY.primary.confidence)
    assert changed.guardrails.margins == {**POLICY.guardrails.margins, "recall": 0.01, "f1": 0.1}
    path.write_text("# nothing\n")
    assert load_policy(path) == POLICY == load_policy(DEFAULT_POLICY)


def test_a_policy_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        POLICY.primary.min_effect = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("primery: {}", ["primery", "unknown key", "primary, bootstrap, guardrails"]),
        (
            "guardrails: {slices: {margins: 1}}",
            ["guardrails.slices.margins", "columns, min_positives, margin"],
        ),
        ("primary: {metric: ap}", ["primary.metric", "'average_precision', 'roc_auc'", "'ap'"]),
        ("primary: {min_effect: '0.1'}", ["primary.min_effect", "number", "'0.1'"]),
        ("primary: {min_effect: true}", ["primary.min_effect", "number"]),
        ("primary: {confidence: 95}", ["primary.confidence", "less than 1", "95"]),
        ("primary: {min_effect: .nan}", ["primary.min_effect", "finite"]),
        ("primary: 3", ["primary: input should be a valid mapping, not 3"]),
        ("guardrails: {slices: {columns: location}}", ["columns: input should be a valid list, not 'location'"]),
        ("bootstrap: {resamples: 10}", ["bootstrap.resamples", "1000", "10"]),
        ("bootstrap: {resamples: 2000.5}", ["bootstrap.resamples", "integer"]),
        ("guardrails: {alpha: 0}", ["guardrails.alpha", "greater than 0"]),
        ("guardrails: {margins: {ece: 0.02}}", ["guardrails.margins.ece: ECE is reported", "log_loss and calibration"]),
        ("primary: {metric: ece}", ["primary.metric: ECE is reported"]),
        ("limits: {production: {calibration: 0.1}}", ["limits.production.calibration", "'ece'"]),
        ("primary: {confidence: 0.9995}", ["bootstrap.resamples: 2000 are too few", "4000 or more"]),
        ("guardrails: {alpha: 0.001}", ["bootstrap.resamples: 2000 are too few", "alpha 0.001", "24000 or more"]),
        ("guardrails: {margins: {recal: 0.1}}", ["guardrails.margins.recal", "'recall'"]),
        (
            "guardrails: {margins: {recall: -0.1}}",
            ["guardrails.margins.recall", "greater than or equal to 0"],
        ),
        (
            "guardrails: {slices: {columns: [city]}}",
            ["guardrails.slices.columns", "'preferred_language'", "'city'"],
        ),
        ("alerts: {severity: {drift: loud}}", ["alerts.severity.drift", "'warning'", "'loud'"]),
        ("alerts: {severity: {rain: info}}", ["alerts.severity.rain", "'late'"]),
        ("alerts: {repeat_hours: {warning: 0}}", ["alerts.repeat_hours.warning", "greater than 0"]),
        ("alerts: {channels: {critical: pager}}", ["alerts.channels.critical: input should be a valid list"]),
        ('alerts: {quiet_hours: {start: "25:00"}}', ["alerts.quiet_hours.start", "25:00"]),
        ("alerts: {quiet_hours: {time_zone: Mars/Olympus}}", ["time_zone", "no such time zone", "Asia/Kolkata"]),
        ("alerts: {performance: {tolerance: {f1: 0.1}}}", ["alerts.performance.tolerance.f1", "'recall'"]),
        ("alerts: {late_hour: 3}", ["alerts.late_hour: unknown key", "late_hours"]),
        ("primary: [", ["not YAML", "line 1"]),
        ("- a\n- b", ["mapping", "primary, bootstrap, guardrails", "list"]),
    ],
)
def test_an_invalid_policy_is_refused_in_one_line(tmp_path: Path, text: str, said: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        load_policy(path)
    message = str(refused.value)
    assert "\n" not in message and message.startswith(str(path))
    for part in said:
        assert part in message


def test_a_missing_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml.*No such file"):
        load_policy(tmp_path / "gone.yaml")


def test_what_yaml_makes_of_a_time_of_day_is_one() -> None:
    # without quotation marks YAML takes 22:00 for a number in base 60
    hours = load_policy(text="alerts: {quiet_hours: {start: 22:00, end: 07:30}}").alerts.quiet_hours
    assert (hours.start, hours.end, hours.first, hours.last) == ("22:00", "07:30", 1320, 450)


def test_a_metric_can_be_left_unwatched() -> None:
    tolerance = load_policy(text="alerts: {performance: {tolerance: {recall: null}}}").alerts.performance.tolerance
    assert tolerance["recall"] is None and tolerance["average_precision"] is not None


def test_the_installations_policy_is_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_POLICY", raising=False)
    assert installed_policy() == load_policy()
    monkeypatch.setenv("MLOPS_POLICY", "alerts: {late_hours: 3}")
    assert installed_policy().alerts.late_hours == 3
    monkeypatch.setenv("MLOPS_POLICY", "alerts: {late_hours: -3}")
    with pytest.raises(InputError, match=r"MLOPS_POLICY: alerts\.late_hours"):
        installed_policy()
