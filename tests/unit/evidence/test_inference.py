"""How sure the decision is: many guardrails, calibration, repeated rows, slices."""

import numpy as np
import pandas as pd
import pytest

from matchmaking.base.errors import InputError
from matchmaking.evidence.compare import decide
from matchmaking.evidence.explain import explain
from tests.decision_fixtures import POLICY, expit, guardrail, logit, policy, simulate

# --- many guardrails


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
