"""The promotion decision: verdicts whose right answer is known, the metrics, the policy file, the page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from matchmaking.decision import (
    DEFAULT_POLICY,
    Policy,
    bootstrap_weights,
    decide,
    explain,
    load_policy,
    metric_scorer,
)
from matchmaking.errors import InputError
from matchmaking.metrics import expected_calibration_error

POLICY = load_policy()


def expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def logit(p: pd.Series) -> np.ndarray:
    return np.log(p / (1 - p)).to_numpy()


def simulate(rows: int = 6_000, production: float = 3.0, candidate: float = 3.0, seed: int = 0) -> pd.DataFrame:
    """Scores of two models that see the truth's logit through noise of these sizes, about 12 % of matches."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-8, 6.5, rows)
    match = (rng.random(rows) < expit(truth)).astype("int8")
    noisy = {
        name: expit((truth + noise * rng.normal(size=rows)) / (1 + noise / 3))
        for name, noise in {"production": production, "candidate": candidate}.items()
    }
    slices = {c: rng.choice(list("abcdefg"), rows) for c in ("location", "preferred_language", "case_type")}
    return pd.DataFrame({"match": match, **noisy, **slices})


def policy(**sections: dict) -> Policy:
    values = POLICY.model_dump()
    for name, changes in sections.items():
        values[name] |= changes
    return Policy.model_validate(values)


def guardrail(decision: dict, name: str) -> dict:
    return next(g for g in decision["guardrails"] if g["name"] == name)


@pytest.fixture(scope="module")
def better() -> pd.DataFrame:
    return simulate(candidate=1.5)


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
    assert harmed == {"brier", "ece"}
    assert guardrail(decision, "brier")["improvement"] < 0  # a rise of Brier is a negative improvement


def test_an_overall_guardrail_that_is_not_shown_to_hold_holds(better: pd.DataFrame) -> None:
    scores = better.assign(candidate=expit(logit(better["candidate"]) + 0.9))
    decision = decide(scores, policy(guardrails={"margins": {"precision": 0.0}, "alpha": 1e-4}))
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


def test_harm_is_corrected_over_all_judged_guardrails() -> None:
    from statsmodels.stats.multitest import multipletests

    guardrails = decide(simulate(candidate=3.5), POLICY)["guardrails"]
    judged = [g for g in guardrails if g["judged"]]
    assert len(judged) == 5 + 21
    expected = multipletests([g["p_harm"] for g in judged], method="holm")[1]
    np.testing.assert_allclose([g["p_harm_holm"] for g in judged], expected)


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


# --- metrics and bootstrap


@pytest.mark.parametrize("decimals", [1, 15], ids=["many ties", "no ties"])
def test_weighted_metrics_are_those_of_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(5)
    y = rng.random(400) < 0.2
    p = np.clip(0.4 * y + rng.random(400) * 0.6, 0, 1).round(decimals)
    group = rng.random(400) < 0.5
    weights = np.vstack([rng.integers(0, 4, (3, 400)), rng.random((1, 400)), np.ones((1, 400))]).astype(float)
    scored = metric_scorer(y, p, {"group": group})(weights)
    for i, w in enumerate(weights):
        chosen, kept = p >= 0.5, group.astype(bool)
        expected = {
            "average_precision": sk.average_precision_score(y, p, sample_weight=w),
            "roc_auc": sk.roc_auc_score(y, p, sample_weight=w),
            "f1": sk.f1_score(y, chosen, sample_weight=w),
            "accuracy": sk.accuracy_score(y, chosen, sample_weight=w),
            "precision": sk.precision_score(y, chosen, sample_weight=w),
            "recall": sk.recall_score(y, chosen, sample_weight=w),
            "brier": sk.brier_score_loss(y, p, sample_weight=w),
            "group": sk.recall_score(y[kept], chosen[kept], sample_weight=w[kept]),
        }
        for name, value in expected.items():
            assert scored[name][i] == pytest.approx(value, abs=1e-12), name
    repeated = np.repeat(np.arange(400), weights[0].astype(int))
    for i, rows in ((0, repeated), (4, np.arange(400))):
        assert scored["ece"][i] == pytest.approx(expected_calibration_error(y[rows], p[rows]), abs=1e-12)


def test_nobody_recommended_is_a_precision_of_zero() -> None:
    assert metric_scorer(np.array([0, 1]), np.array([0.1, 0.2]))(np.ones((1, 2)))["precision"] == 0


def test_resamples_keep_the_number_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matchmaking.decision._CELLS", 900)
    match = np.array([0] * 80 + [1] * 20)
    blocks = list(bootstrap_weights(match, 10, np.random.default_rng(0)))
    assert [len(b) for b in blocks] == [9, 1]  # bounded memory: no block exceeds _CELLS
    weights = np.concatenate(blocks)
    assert (weights[:, match == 1].sum(axis=1) == 20).all() and (weights[:, match == 0].sum(axis=1) == 80).all()
    assert weights.max() > 1 and weights.min() == 0


# --- the policy file and the scores


def test_the_default_policy_is_what_the_issue_asks_for() -> None:
    assert (POLICY.primary.metric, POLICY.primary.min_effect) == ("average_precision", 0.01)
    assert set(POLICY.guardrails.margins) == {"recall", "precision", "roc_auc", "brier", "ece"}
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
        ("guardrails: {margins: {recal: 0.1}}", ["guardrails.margins.recal", "'recall'"]),
        (
            "guardrails: {margins: {recall: -0.1}}",
            ["guardrails.margins.recall", "greater than or equal to 0"],
        ),
        (
            "guardrails: {slices: {columns: [city]}}",
            ["guardrails.slices.columns", "'preferred_language'", "'city'"],
        ),
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


def test_the_page_has_the_verdict_first_every_test_and_what_would_change_it(better: pd.DataFrame) -> None:
    for scores, verdict in (
        (better, "promote"),
        (simulate(rows=2_400), "hold"),
        (simulate(candidate=6.0), "reject"),
    ):
        decision = decide(scores, POLICY)
        page = explain(decision)
        assert page.startswith(f"# Verdict: {verdict}\n")
        for reason in decision["reasons"]:
            assert reason in page
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        assert len(rows) == 1 + 1 + len(decision["guardrails"])
        assert all(row.count("|") == 10 for row in rows)
        assert "(99.5%)" in rows[1] and "(90%)" in rows[2]
        changes = page.split("## What would change the verdict\n")[1]
        assert "average_precision" in changes
