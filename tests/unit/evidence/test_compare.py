"""The promotion decision: verdicts whose right answer is known, on simulated scores and on the data's warnings."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn import metrics as sk

from matchmaking.base.errors import InputError
from matchmaking.evidence.compare import decide, decide_file, with_contract, with_data
from matchmaking.evidence.explain import explain
from matchmaking.evidence.policy import Policy, load_policy
from tests.decision_fixtures import POLICY, expit, guardrail, logit, policy, simulate

# --- verdicts


def test_a_model_against_itself_is_held() -> None:
    scores = simulate().assign(candidate=lambda d: d["production"])
    decision = decide(scores, POLICY)
    assert decision["verdict"] == "hold"
    assert decision["primary"]["ci"] == [0, 0]
    assert all(g["p_harm"] == 1 and g["result"] == "non-inferior" for g in decision["guardrails"])


@pytest.mark.parametrize("seed", range(5))
def test_another_draw_of_the_same_model_is_not_promoted(seed: int) -> None:
    assert decide(simulate(rows=2_400, seed=seed), POLICY)["verdict"] == "hold"


def test_a_truly_better_model_is_promoted(better: pd.DataFrame) -> None:
    decision = decide(better, POLICY)
    assert decision["verdict"] == "promote"
    assert decision["primary"]["result"] == "improved"
    assert 0 < decision["primary"]["ci"][0] < decision["primary"]["improvement"] < decision["primary"]["ci"][1]
    assert {g["result"] for g in decision["guardrails"]} <= {"non-inferior", "inconclusive"}


def test_a_truly_worse_model_is_rejected_for_the_primary_metric() -> None:
    decision = decide(simulate(candidate=6.0), POLICY)
    assert decision["verdict"] == "reject"
    assert "average_precision is clearly worse" in decision["reasons"][0]


def test_better_accuracy_with_clearly_worse_recall_is_rejected_for_recall() -> None:
    scores = simulate().assign(production=lambda d: expit(logit(d["production"]) + 1.5))
    scores["candidate"] = expit(logit(scores["production"]) - 1.5)
    accuracy = {m: ((scores[m] >= 0.5) == scores["match"]).mean() for m in ("production", "candidate")}
    assert accuracy["candidate"] > accuracy["production"]  # the old rule would have promoted it
    decision = decide(scores, POLICY)
    assert decision["verdict"] == "reject"
    assert any(reason.startswith("recall is clearly worse") for reason in decision["reasons"])


def test_a_better_model_that_fails_one_slice_is_rejected_for_that_slice(better: pd.DataFrame) -> None:
    lost = better["location"] == "c"
    scores = better.assign(candidate=better["candidate"].where(~lost, better["candidate"] * 0.55))
    decision = decide(scores, POLICY)
    assert decision["verdict"] == "reject"
    assert "recall[location=c] is clearly worse" in " ".join(decision["reasons"])
    assert guardrail(decision, "recall[location=d]")["result"] != "harm"


def test_a_better_ranking_with_a_worse_brier_is_rejected_for_it(better: pd.DataFrame) -> None:
    # the same order and the same side of 0.5, but squeezed to 0.5: useless as a probability
    scores = better.assign(candidate=0.5 + (better["candidate"] - 0.5) * 0.3)
    decision = decide(scores, POLICY)
    assert decision["verdict"] == "reject"
    harmed = {g["name"] for g in decision["guardrails"] if g["result"] == "harm"}
    assert harmed == {"brier", "log_loss", "calibration"}
    assert guardrail(decision, "brier")["improvement"] < 0  # a rise of Brier is a negative improvement


def test_an_overall_guardrail_that_is_not_shown_to_hold_holds(better: pd.DataFrame) -> None:
    scores = better.assign(candidate=expit(logit(better["candidate"]) + 0.9))
    decision = decide(scores, policy(guardrails={"margins": {"precision": 0.0}, "alpha": 1e-3}))
    assert decision["verdict"] == "hold"
    assert [r.split(" ")[0] for r in decision["reasons"]] == ["precision"]


def test_without_production_the_verdict_is_bootstrap(better: pd.DataFrame) -> None:
    decision = decide(better.drop(columns="production"), POLICY)
    assert decision["verdict"] == "bootstrap"
    assert decision["reasons"] == ["there is no production model to compare with"]
    assert decision["primary"]["candidate"] == pytest.approx(
        sk.average_precision_score(better["match"], better["candidate"])
    )
    assert "bootstrap" in explain(decision)


def test_a_first_model_below_the_limits_of_production_is_not_promoted_automatically(better: pd.DataFrame) -> None:
    first = better.drop(columns="production")
    poor = first.assign(candidate=lambda d: 0.5 + (d["candidate"] - 0.5) * 0.3)
    by_itself = policy(auto_promote=True)
    decision = decide(poor, by_itself)
    assert (decision["verdict"], decision["automatic"]) == ("bootstrap", False)
    (reason,) = decision["reasons"][1:]
    assert reason.startswith("brier is 0.1") and "limit at most 0.08" in reason and "not promoted automatic" in reason
    good = decide(first, by_itself)
    assert (good["verdict"], good["automatic"], len(good["reasons"])) == ("bootstrap", True, 1)
    assert not decide(first, POLICY)["automatic"]


def test_a_better_model_is_promoted_automatically_where_the_policy_says_so(better: pd.DataFrame) -> None:
    by_itself = policy(auto_promote=True)
    decision = decide(better, by_itself)
    assert (decision["verdict"], decision["automatic"]) == ("promote", True)
    checks = [{"name": "input", "passed": True, "detail": "47"}, {"name": "loads", "passed": False, "detail": "no"}]
    failed = with_contract(decision, {"passed": False, "checks": checks})
    assert not failed["automatic"]
    assert failed["contract"] == {"passed": False, "failed": ["loads: no"]}
    assert failed["reasons"] == ["the serving contract failed, loads: no", *decision["reasons"]]
    assert not decide(better, POLICY)["automatic"]
    assert not decide(simulate(), by_itself)["automatic"]


def test_too_few_matches_are_always_held(better: pd.DataFrame) -> None:
    few = pd.concat([better[better["match"] == 1].head(29), better[better["match"] == 0].head(500)])
    assert decide(few, POLICY)["verdict"] == "hold"
    assert "29 matches" in decide(few, POLICY)["reasons"][0]


def test_a_small_slice_is_reported_and_not_judged(better: pd.DataFrame) -> None:
    matches = better.index[better["match"] == 1][:20]
    scores = better.assign(location=better["location"].mask(better.index.isin(matches), "tiny"))
    scores.loc[matches, "production"], scores.loc[matches, "candidate"] = 0.9, 0.1
    decision = decide(scores, POLICY)
    tiny = guardrail(decision, "recall[location=tiny]")
    assert tiny["improvement"] == -1
    assert (tiny["positives"], tiny["result"], tiny["judged"], tiny["p_harm_holm"]) == (
        20,
        "too few",
        False,
        None,
    )
    assert not any("tiny" in reason for reason in decision["reasons"])


# --- slices


def test_the_primary_metric_and_its_effect_are_configurable(better: pd.DataFrame) -> None:
    brier = decide(better, policy(primary={"metric": "brier", "min_effect": 0.001}))
    assert (brier["verdict"], brier["primary"]["metric"]) == ("promote", "brier")
    assert brier["primary"]["improvement"] == pytest.approx(
        brier["primary"]["production"] - brier["primary"]["candidate"]
    )
    assert decide(better, policy(primary={"min_effect": 0.5}))["verdict"] == "hold"


# --- reproducible, whatever the order of the rows


def test_the_same_seed_gives_the_same_decision_and_another_seed_other_intervals(better: pd.DataFrame) -> None:
    first = decide(better, POLICY, seed=3)
    assert decide(better, POLICY, seed=3) == first
    assert decide(better, POLICY, seed=4)["primary"]["ci"] != first["primary"]["ci"]


def test_the_order_of_the_rows_does_not_matter(better: pd.DataFrame) -> None:
    shuffled = better.sample(frac=1, random_state=1)
    assert decide(shuffled, POLICY) == decide(better, POLICY)


def test_the_decision_is_json(better: pd.DataFrame) -> None:
    decision = decide(better, POLICY, seed=7)
    assert json.loads(json.dumps(decision, allow_nan=False)) == decision
    assert (decision["rows"], decision["positives"], decision["seed"]) == (6_000, better["match"].sum(), 7)
    assert Policy.model_validate_json(json.dumps(decision["policy"])) == POLICY


# --- the policy file and the scores


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.drop(columns="candidate"), "no column candidate"),
        (lambda d: d.drop(columns="location"), "no column location"),
        (lambda d: d.assign(match=2), "match must be 0 or 1; 6000 rows are not"),
        (lambda d: d.assign(match=0), "both matches and non-matches"),
        (lambda d: d.assign(candidate=d["candidate"].mask(d.index == 5)), "candidate must be a probability"),
        (lambda d: d.assign(production=d["production"] + 1.0), "production must be a probability"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(better: pd.DataFrame, change, said: str) -> None:
    with pytest.raises(InputError, match=said):
        decide(change(better), POLICY)


# --- the page


def noticed(unknown: int, *warnings: str) -> dict[str, Any]:
    return {"rows": 1_000, "unseen": {"city": {"DELHI": unknown}} if unknown else {}, "warnings": list(warnings)}


def test_what_was_noticed_in_the_data_is_among_the_reasons(better: pd.DataFrame) -> None:
    decision = decide(better, load_policy())
    told = with_data(decision, noticed(50, "column 'city': 50 of 1,000 rows ..."), load_policy())
    assert told["verdict"] == decision["verdict"] == "promote"
    assert told["reasons"] == [*decision["reasons"], "the data: column 'city': 50 of 1,000 rows ..."]
    assert told["warnings"] == ["column 'city': 50 of 1,000 rows ..."]
    assert with_data(decision, None, load_policy()) == decision


def test_a_better_model_on_data_the_encoder_does_not_know_is_held(better: pd.DataFrame) -> None:
    """More than 5 % of a column's values; a share that a policy may allow."""
    decision = decide(better, policy(auto_promote=True))
    assert decision["automatic"]
    held = with_data(decision, noticed(51), policy(auto_promote=True))
    assert (held["verdict"], held["automatic"]) == ("hold", False)
    assert held["reasons"][0] == "5.1% of column 'city' is unknown to production's encoder; it may be 5.0%"
    assert with_data(decision, noticed(51), policy(data={"max_unknown_share": 0.1}))["verdict"] == "promote"
    rejected = with_data({**decision, "verdict": "reject"}, noticed(500), load_policy())
    assert rejected["verdict"] == "reject"


def test_the_files_of_a_run_bring_the_data_s_warnings(better: pd.DataFrame, tmp_path: Path) -> None:
    better.to_parquet(tmp_path / "scores")
    (tmp_path / "evaluation").write_text(json.dumps({"contract": None}))
    (tmp_path / "data").write_text(json.dumps(noticed(900, "nine of ten")))
    paths = [tmp_path / name for name in ("decision", "page", "evaluation", "data")]
    assert decide_file(tmp_path / "scores", "", 0, *paths)["verdict"] == "hold"
    assert json.loads(paths[0].read_text())["warnings"] == ["nine of ten"]
    assert "nine of ten" in paths[1].read_text()
