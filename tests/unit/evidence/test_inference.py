"""The promotion decision: verdicts whose right answer is known, the metrics, the policy file, the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from matchmaking.base.errors import InputError
from matchmaking.base.escape import for_markdown
from matchmaking.evidence.bootstrap import bootstrap_weights, metric_scorer
from matchmaking.evidence.compare import decide, decide_file, with_contract, with_data
from matchmaking.evidence.explain import explain
from matchmaking.evidence.policy import DEFAULT_POLICY, Policy, load_policy

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


def policy(**sections: Any) -> Policy:
    values = POLICY.model_dump()
    for name, changes in sections.items():
        values[name] = {**values[name], **changes} if isinstance(changes, dict) else changes
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


def test_harm_is_corrected_over_all_judged_guardrails() -> None:
    """Overall and slices each by Holm at half of alpha: together they err no more often than alpha."""
    from statsmodels.stats.multitest import multipletests

    guardrails = decide(simulate(candidate=3.5), POLICY)["guardrails"]
    judged = [g for g in guardrails if g["judged"]]
    families = [[g for g in judged if g["name"].startswith("recall[") is inside] for inside in (False, True)]
    assert [len(family) for family in families] == [6, 21]
    for family in families:
        expected = multipletests([g["p_harm"] for g in family], method="holm")[1]
        np.testing.assert_allclose([g["p_harm_holm"] for g in family], np.minimum(1, 2 * expected))


@pytest.mark.parametrize("values", [7, 100, 300])
def test_harm_is_shown_however_many_slices_are_judged(better: pd.DataFrame, values: int) -> None:
    rng = np.random.default_rng(0)
    scores = better.assign(**{c: rng.integers(values, size=len(better)) for c in POLICY.guardrails.slices.columns})
    decision = decide(
        scores.assign(candidate=0.5 + (better["candidate"] - 0.5) * 0.3),
        policy(guardrails={"slices": {**POLICY.guardrails.slices.model_dump(), "min_positives": 1}}),
    )
    assert sum(g["judged"] for g in decision["guardrails"]) > 2.9 * min(values, 250)
    assert guardrail(decision, "brier")["result"] == "harm"


# --- calibration


def calibrated(rows: int, rng: np.random.Generator, shift: float = 0.0) -> pd.DataFrame:
    """Production's probabilities are the truth; the candidate's logits are noisy, calibrated, and then shifted."""
    truth = rng.normal(-8, 6.5, rows)
    slices = {c: rng.choice(list("abcdefg"), rows) for c in ("location", "preferred_language", "case_type")}
    columns = {"match": (rng.random(rows) < expit(truth)).astype("int8"), "production": expit(truth), **slices}
    return pd.DataFrame(columns).assign(candidate=expit(truth + shift))


def shift_that_loses(loss: float) -> float:
    from scipy.optimize import brentq

    truth = np.random.default_rng(9).normal(-8, 6.5, 2_000_000)
    return brentq(lambda shift: (expit(truth + shift) - expit(truth)).mean() - loss, -8, 8)


@pytest.mark.parametrize("loss", [0.02, -0.02], ids=["above the match rate", "below the match rate"])
def test_a_candidate_that_is_miscalibrated_by_the_margin_passes_as_seldom_as_stated(loss: float) -> None:
    margin = POLICY.guardrails.margins["calibration"]
    assert abs(loss) == margin
    shift = shift_that_loses(loss)
    quick = policy(bootstrap={"resamples": 1000})
    found = [
        guardrail(decide(calibrated(2_400, np.random.default_rng(seed), shift), quick), "calibration")
        for seed in range(40)
    ]
    # of 40 with 5 % each, 7 or more happen in 3 of 1,000
    assert sum(test["ci"][0] > -margin for test in found) <= 6
    # and 90 % of the intervals hold the truth: fewer than 30 of 40 happen in 2 of 1,000
    assert sum(test["ci"][0] <= -margin <= test["ci"][1] for test in found) >= 30


def test_a_candidate_that_is_miscalibrated_by_half_the_margin_passes() -> None:
    decision = decide(calibrated(6_000, np.random.default_rng(0), shift_that_loses(0.01)), POLICY)
    assert guardrail(decision, "calibration")["result"] == "non-inferior"


def test_calibration_is_judged_against_production_on_both_sides() -> None:
    scores = calibrated(6_000, np.random.default_rng(0))
    ways = {
        loss: expit(logit(scores["production"]) + shift_that_loses(loss)) for loss in (0.09, 0.05, 0.03, -0.03, -0.09)
    }
    found = {
        (old, new): guardrail(decide(scores.assign(production=ways[old], candidate=ways[new]), POLICY), "calibration")
        for old, new in ((0.05, 0.03), (0.05, -0.03), (0.03, 0.05), (-0.03, -0.09), (-0.03, 0.09), (0.03, -0.09))
    }
    # farther from the truth than the margin, and still nearer than production: no reason to keep production
    for new in (0.03, -0.03):
        assert found[0.05, new]["improvement"] == pytest.approx(0.02, abs=0.015)
        assert found[0.05, new]["result"] == "non-inferior"
    assert found[0.05, 0.03]["production"] == pytest.approx(0.05, abs=0.01)
    assert found[0.03, 0.05]["result"] != "non-inferior"
    for worse in ((-0.03, -0.09), (-0.03, 0.09), (0.03, -0.09)):
        assert found[worse]["result"] == "harm"
        # what the verdict goes by and the p-value that is shown agree
        assert found[worse]["p_noninferior"] == 1
    assert found[0.05, 0.03]["p_noninferior"] < 0.001 and found[0.05, -0.03]["p_noninferior"] < 0.001


# --- repeated rows


@pytest.fixture(scope="module")
def repeated() -> pd.DataFrame:
    """A worse candidate's scores, each row five times as one group."""
    once = simulate(rows=1_200, candidate=4.0, seed=1)
    return once.assign(group=np.arange(len(once), dtype="uint64") + 2**63).loc[once.index.repeat(5)]


def test_repeated_rows_are_one_piece_of_evidence(repeated: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matchmaking.evidence.bootstrap._CELLS", 1)  # blocks of the same size, so the same draws
    once, five = (decide(scores, POLICY) for scores in (repeated.drop_duplicates("group"), repeated))
    assert (five["verdict"], five["distinct"]) == (once["verdict"], {"rows": 1_200, "positives": once["positives"]})
    assert (five["rows"], five["positives"]) == (6_000, 5 * once["positives"])
    for mine, other in zip([five["primary"], *five["guardrails"]], [once["primary"], *once["guardrails"]], strict=True):
        np.testing.assert_allclose(mine["ci"], other["ci"], atol=1e-9)
        assert mine.get("p_harm") == other.get("p_harm")
    assert "1,200 distinct pairs" in explain(five) and "distinct pairs" not in explain(once)
    independent = decide(repeated.drop(columns="group"), POLICY)
    widths = [np.diff(d["primary"]["ci"])[0] for d in (five, independent)]
    assert widths[0] > 2 * widths[1]


def test_groups_of_one_row_change_nothing(better: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    assert decide(better.assign(group=rng.permutation(len(better))), POLICY) == decide(better, POLICY)


def test_matches_are_counted_once_each(better: pd.DataFrame) -> None:
    few = pd.concat([better[better["match"] == 1].head(29), better[better["match"] == 0].head(500)])
    few = few.assign(group=np.arange(len(few))).loc[few.index.repeat(3)]
    decision = decide(few, POLICY)
    assert decision["verdict"] == "hold"
    assert decision["reasons"] == ["29 distinct matches in the held-out rows; a decision needs 30"]


def test_pairs_with_the_same_features_and_both_labels_are_compared(better: pd.DataFrame) -> None:
    both = better[better["match"] == 1].head(60)
    both = pd.concat([both, both.assign(match=0)]).assign(group=lambda d: d.index)
    decision = decide(both, POLICY)
    assert (decision["verdict"], decision["distinct"]) == ("hold", {"rows": 60, "positives": 60})


def test_a_missing_group_is_refused(better: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="group is missing in 1 rows"):
        decide(better.assign(group=[None, *range(len(better) - 1)]), POLICY)


# --- slices


def test_the_interval_of_a_slice_is_that_of_agresti_and_min(better: pd.DataFrame) -> None:
    inside = better[(better["match"] == 1) & (better["location"] == "c")]
    hits = inside[["production", "candidate"]].to_numpy() >= 0.5
    lost, gained, n = (hits[:, 0] & ~hits[:, 1]).sum(), (~hits[:, 0] & hits[:, 1]).sum(), len(inside)
    centre = (gained - lost) / (n + 2)
    error = np.sqrt(lost + gained + 1 - (gained - lost) ** 2 / (n + 2)) / (n + 2)
    test = guardrail(decide(better, POLICY), "recall[location=c]")
    np.testing.assert_allclose(test["ci"], [centre - 1.6449 * error, centre + 1.6449 * error], atol=1e-4)
    assert test["improvement"] == pytest.approx((gained - lost) / n)


def test_a_mass_of_small_slices_is_counted_not_listed(better: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    decision = decide(better.assign(location=rng.integers(500, size=len(better))), POLICY)
    listed = [g for g in decision["guardrails"] if g["name"].startswith("recall[location=")]
    assert len(listed) == 20 and {g["result"] for g in listed} == {"too few"}
    values = better.assign(location=np.random.default_rng(0).integers(500, size=len(better)))
    assert decision["unlisted"] == {"location": values.loc[values["match"] == 1, "location"].nunique() - 20}
    assert f"{decision['unlisted']['location']} more values of location" in explain(decision)


def test_memory_does_not_grow_with_the_values_of_a_slice() -> None:
    import tracemalloc

    peaks = {}
    quick = policy(bootstrap={"resamples": 1000})
    scores = simulate(rows=60_000)
    for values in (7, 300):
        rng = np.random.default_rng(0)
        sliced = scores.assign(**{c: rng.integers(values, size=len(scores)) for c in quick.guardrails.slices.columns})
        tracemalloc.start()
        decide(sliced, quick)
        peaks[values] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    assert peaks[300] < peaks[7] + 5
    assert peaks[300] < 120


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
    weights = np.vstack([rng.integers(0, 4, (3, 400)), rng.random((1, 400)), np.ones((1, 400))]).astype(float)
    scored = metric_scorer(y, p)(weights)
    for i, w in enumerate(weights):
        chosen = p >= 0.5
        expected = {
            "average_precision": sk.average_precision_score(y, p, sample_weight=w),
            "roc_auc": sk.roc_auc_score(y, p, sample_weight=w),
            "f1": sk.f1_score(y, chosen, sample_weight=w),
            "accuracy": sk.accuracy_score(y, chosen, sample_weight=w),
            "precision": sk.precision_score(y, chosen, sample_weight=w),
            "recall": sk.recall_score(y, chosen, sample_weight=w),
            "brier": sk.brier_score_loss(y, p, sample_weight=w),
            "log_loss": sk.log_loss(y, p, sample_weight=w),
            "calibration": np.average(p - y, weights=w),
        }
        assert set(scored) == set(expected)
        for name, value in expected.items():
            assert scored[name][i] == pytest.approx(value, abs=1e-12), name


def test_nobody_recommended_is_a_precision_of_zero() -> None:
    assert metric_scorer(np.array([0, 1]), np.array([0.1, 0.2]))(np.ones((1, 2)))["precision"] == 0


def test_resamples_keep_the_number_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matchmaking.evidence.bootstrap._CELLS", 900)
    match = np.array([0] * 80 + [1] * 20)
    blocks = list(bootstrap_weights(match, 10, np.random.default_rng(0)))
    assert [len(b) for b in blocks] == [9, 1]  # bounded memory: no block exceeds _CELLS
    weights = np.concatenate(blocks)
    assert (weights[:, match == 1].sum(axis=1) == 20).all() and (weights[:, match == 0].sum(axis=1) == 80).all()
    assert weights.max() > 1 and weights.min() == 0


def test_rows_of_a_group_are_drawn_together() -> None:
    match = np.array([0] * 80 + [1] * 20)
    group = np.arange(100) // 5
    (weights,) = bootstrap_weights(match, 50, np.random.default_rng(0), group)
    assert (weights.reshape(50, 20, 5) == weights.reshape(50, 20, 5)[:, :, :1]).all()
    assert (weights.sum(axis=1) == 100).all() and weights.max() > 1


# --- the policy file and the scores


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
            assert for_markdown(reason) in page
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        assert len(rows) == 1 + 1 + len(decision["guardrails"])
        assert all(row.count("|") == 10 for row in rows)
        assert "(99.5%)" in rows[1] and "(90%)" in rows[2]
        changes = page.split("## What would change the verdict\n")[1].replace("\\_", "_")
        assert "average_precision" in changes


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


def test_a_slice_s_white_space_is_seen_in_reasons_and_on_the_page(better: pd.DataFrame) -> None:
    lost = better["location"] == "c"
    worse = better.assign(candidate=better["candidate"].where(~lost, better["candidate"] * 0.55))
    decision = decide(worse.assign(location=worse["location"].mask(lost, "New\tDelhi")), POLICY)
    assert guardrail(decision, "recall[location=New\tDelhi]")["result"] == "harm"
    assert any(reason.startswith(r"recall[location=New\tDelhi] is clearly worse") for reason in decision["reasons"])
    assert explain(decision).count(r"recall\[location=New\\tDelhi\]") == 3
